/**
 * The frame of the server's own pages: plain HTML with its style inside.
 *
 * @module
 */

import { html, raw } from "hono/html";

const STYLE = `
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2.5rem auto; padding: 0 1.2rem }
h1 { margin: 0 0 .3rem; font-size: 1.7rem }
h2 { margin: 2.5rem 0 .5rem; font-size: 1.1rem }
nav { margin-bottom: 1.5rem }
a { color: #2463c4 }
code, pre { font-family: ui-monospace, monospace; font-size: .875em }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .4rem 1rem .4rem 0; border-bottom: 1px solid #8884 }
th { font-weight: 600 }
td:first-child { white-space: nowrap }
.facts th { width: 11rem }
.fields td:nth-child(2) { width: 15rem }
.refused { color: #7a7a7a }
pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: .9rem 1.1rem; background: #8882; border-radius: .4rem }
@media (prefers-color-scheme: dark) { a { color: #8ab4f8 } .refused { color: #999 } }
@media (max-width: 40rem) { td:first-child { white-space: normal } .fields td:nth-child(2) { width: auto } }
`;

/** A whole page. */
export function page(title: string, content: ReturnType<typeof html>) {
  return html`
    <!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8">
        <meta name="viewport" content="width=device-width">
        <title>${title}</title>
        <style>${raw(STYLE)}</style>
      </head>
      <body>
    <h1>${title}</h1>
    ${content}
      </body>
    </html>
  `;
}
