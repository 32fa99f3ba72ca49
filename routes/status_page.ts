/**
 * `/`: what the server serves and how busy it is, with a command to try.
 *
 * @module
 */

import { Hono } from "hono";
import { html } from "hono/html";
import { page } from "./_page.ts";
import type { Server } from "./_server.ts";

/** The status page's route. */
export function statusPageRoutes(server: Server): Hono {
  return new Hono().get("/", (c) => c.html(statusPage(server, new URL(c.req.url).origin)));
}

function statusPage(server: Server, origin: string) {
  const { info } = server.engine;
  const stats = server.engine.stats();
  const rows = [
    ["Model", server.modelNames.join(", ")],
    ["State", stats.alive ? "running" : "stopped"],
    ["Device", `${info.device.name} (${info.device.backend}, ${info.device.isa}, ${info.numThreads} threads)`],
    ["KV cache", `${info.kvCacheDtype}: ${info.kvCacheDtypeReason}`],
    [
      "Cache holds",
      `${info.numKvTokens} tokens of ${info.kvBytesPerToken} bytes, ${Math.round(100 * stats.kvCacheUsage)} % used`,
    ],
    ["Longest sequence", `${info.maxModelLen} tokens`],
    ["Requests", `${stats.numRequestsRunning} running, ${stats.numRequestsWaiting} waiting`],
    ["Tokens so far", `${stats.promptTokensTotal} of prompts, ${stats.generationTokensTotal} generated`],
  ];
  return page(
    `Octavo ${server.version}`,
    html`
      <table>${rows.map(([name, value]) =>
        html`
          <tr>
            <th>${name}</th>
            <td>${value}</td>
          </tr>
        `
      )}</table>
      <h2>Try it</h2>
      <pre>${curlExample(server, origin)}</pre>
      <p><a href="/docs">HTTP interface</a> · <a href="/metrics">Metrics</a></p>
    `,
  );
}

function curlExample({ chatTemplate, modelNames }: Server, origin: string): string {
  const model = modelNames[0];
  const [path, body] = chatTemplate === null
    ? ["completions", { model, prompt: "London is the capital of", max_tokens: 32, stream: true }]
    : ["chat/completions", { model, messages: [{ role: "user", content: "Hello!" }], stream: true }];
  // A quote inside a shell's single quotes.
  const data = JSON.stringify(body).replaceAll("'", `'\\''`);
  return `curl -N ${origin}/v1/${path} -H 'content-type: application/json' -d '${data}'`;
}
