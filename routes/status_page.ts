/**
 * `/`: what the server serves and how busy it is, with a command to try.
 *
 * @module
 */

import { Hono } from "hono";
import { html } from "hono/html";
import { page } from "./_page.ts";
import type { Server } from "./_server.ts";
import { curlExample } from "./curl_example.ts";

/** The status page's route. */
export function statusPageRoutes(server: Server): Hono {
  return new Hono().get("/", (c) => c.html(statusPage(server, new URL(c.req.url).origin)));
}

function statusPage(server: Server, origin: string) {
  const { info } = server.engine;
  const { chatTemplate, asksForKey, modelNames } = server;
  const stats = server.engine.stats();
  const used = `${Math.round(100 * stats.kvCacheUsage)} % used`;
  const rows = [
    ["Model", modelNames.join(", ")],
    ["State", stats.alive ? "running" : "stopped"],
    ["Device", `${info.device.name} (${info.device.backend}, ${info.device.isa}, ${info.numThreads} threads)`],
    ["KV cache", `${info.kvCacheDtype} (${info.kvCacheDtypeReason})`],
    ["Cache holds", `${count(info.numKvTokens)} tokens of ${count(info.kvBytesPerToken)} bytes, ${used}`],
    ["Longest sequence", `${count(info.maxModelLen)} tokens`],
    ["Requests", `${count(stats.numRequestsRunning)} running, ${count(stats.numRequestsWaiting)} waiting`],
    ["Tokens so far", `${count(stats.promptTokensTotal)} of prompts, ${count(stats.generationTokensTotal)} generated`],
  ];
  const example = curlExample({ origin, modelName: modelNames[0], canChat: chatTemplate !== null, asksForKey });
  return page(
    `Octavo ${server.version}`,
    html`
      <nav><a href="/docs">HTTP interface</a> · <a href="/openapi.json">OpenAPI document</a> · <a href="/metrics"
        >Metrics</a></nav>
      <table class="facts">${rows.map(([name, value]) =>
        html`
          <tr>
            <th scope="row">${name}</th>
            <td>${value}</td>
          </tr>
        `
      )}</table>
      <h2>Try it</h2>
      <pre>${example}</pre>
    `,
  );
}

/** A number for people, with commas between thousands. */
function count(value: number): string {
  return value.toLocaleString("en");
}
