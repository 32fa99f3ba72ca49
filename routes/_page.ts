/**
 * The frame of the server's own pages: plain HTML with its style inside.
 *
 * @module
 */

import { html, raw } from "hono/html";

const STYLE = `
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid #8886 }
pre { overflow-x: auto; padding: .8rem; background: #8882; border-radius: .3rem }
h2 { margin-top: 2rem; font-size: 1.1rem }
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
