/**
 * `/openapi.json`, made from the schemas that check the requests, and `/docs`, the same for people; no script, nothing
 * from elsewhere.
 *
 * @module
 */

import { Hono } from "hono";
import { html } from "hono/html";
import { eTag, ifNoneMatch } from "@std/http/etag";
import { STATUS_CODE, STATUS_TEXT, type StatusCode } from "@std/http/status";
import type { Server } from "./_server.ts";
import { page } from "./_page.ts";
import { type EndpointInfo, ENDPOINTS, fieldsOf, jsonSchema, refusedText } from "./reference.ts";

/** The OpenAPI and documentation routes. */
export function openapiRoutes({ version }: Server): Hono {
  const text = JSON.stringify(openapiDocument(version), null, 2);
  const app = new Hono();
  app.get("/openapi.json", async (c) => {
    const etag = await eTag(text);
    const headers = { etag, "cache-control": "no-cache", "content-type": "application/json" };
    const isFresh = !ifNoneMatch(c.req.header("if-none-match") ?? null, etag);
    return isFresh ? c.body(null, STATUS_CODE.NotModified, headers) : c.body(text, STATUS_CODE.OK, headers);
  });
  app.get("/docs", (c) => c.html(docsPage()));
  return app;
}

/** The interface as an OpenAPI 3.1 document. */
export function openapiDocument(version: string): Record<string, unknown> {
  const paths: Record<string, Record<string, unknown>> = {};
  for (const endpoint of ENDPOINTS) (paths[endpoint.path] ??= {})[endpoint.method] = operation(endpoint);
  return {
    openapi: "3.1.0",
    info: { title: "Octavo", version, description: "OpenAI-compatible inference over HTTP." },
    security: [{}, { key: [] }],
    paths,
    components: {
      securitySchemes: { key: { type: "http", scheme: "bearer" } },
      schemas: { Error: ERROR_SCHEMA },
    },
  };
}

const NULLABLE_TEXT = { type: ["string", "null"] };
const ERROR_SCHEMA = {
  type: "object",
  required: ["error"],
  properties: {
    error: {
      type: "object",
      required: ["message", "type", "param", "code"],
      properties: { message: { type: "string" }, type: { type: "string" }, param: NULLABLE_TEXT, code: NULLABLE_TEXT },
    },
  },
};

function operation({ method, path, summary, body, responseTypes, errors, isOpen }: EndpointInfo) {
  const error = (status: number) => [status, {
    description: STATUS_TEXT[status as StatusCode],
    content: { "application/json": { schema: { $ref: "#/components/schemas/Error" } } },
  }];
  const parameters = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => {
    return { name, in: "path", required: true, schema: { type: "string" } };
  });
  return {
    operationId: `${method}${path.replaceAll(/[^a-z0-9]+/gi, "_")}`,
    summary,
    ...parameters.length > 0 && { parameters },
    ...isOpen && { security: [] },
    ...body && { requestBody: { required: true, content: { "application/json": { schema: jsonSchema(body) } } } },
    responses: {
      200: { description: "OK", content: Object.fromEntries(responseTypes.map((type) => [type, {}])) },
      ...Object.fromEntries(errors.map(error)),
    },
  };
}

function docsPage() {
  return page(
    "Octavo: HTTP interface",
    html`
      <nav><a href="/">Status</a> · <a href="/openapi.json">OpenAPI document</a></nav>
      <p>${ENDPOINTS.map((endpoint, i) =>
        html`${i > 0 && " · "}<a href="#${anchor(endpoint)}">${endpoint.path}</a>`
      )}</p>
      ${ENDPOINTS.map((endpoint) => endpointSection(endpoint))}
    `,
  );
}

function anchor({ path }: EndpointInfo): string {
  return path.replaceAll(/\W+/g, "-");
}

function endpointSection(endpoint: EndpointInfo) {
  const { method, path, summary, body, refused } = endpoint;
  const fields = body === undefined ? [] : fieldsOf(body);
  return html`
    <h2 id="${anchor(endpoint)}"><code>${method.toUpperCase()} ${path}</code></h2>
    <p>${summary}</p>
    ${fields.length > 0 &&
      html`<table class="fields">
      <tr><th>Field</th><th>Type</th><th>Meaning</th></tr>
      ${
        fields.map(({ name, type, isRequired, description }) =>
          html`
            <tr>
              <td><code>${name}</code>${isRequired && " (required)"}</td>
              <td>${type}</td>
              <td>${description}</td>
            </tr>
          `
        )
      }
    </table>`}
    ${refused && html`<p class="refused">Refused for now: ${refusedText(refused).join(", ")}.</p>`}
  `;
}
