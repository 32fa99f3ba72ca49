/**
 * The whole HTTP interface as one Hono app; it needs no network and is tested without one.
 *
 * @module
 */

import { type Context, Hono } from "hono";
import { HTTPException } from "hono/http-exception";
import { matchedRoutes } from "hono/route";
import { isStatus, STATUS_CODE } from "@std/http/status";
import { cors } from "./cors.ts";
import { createServer } from "./_server.ts";
import { bearerAuth } from "./auth.ts";
import { chatCompletionRoutes } from "./chat_completions.ts";
import { completionRoutes } from "./completions.ts";
import type { ServerContext } from "./context.ts";
import { ApiError, errorResponse, toApiError } from "./errors.ts";
import { healthRoutes } from "./health.ts";
import { kvRoutes } from "./kv.ts";
import { kvCompareRoutes } from "./kv_compare.ts";
import { metricsRoutes } from "./metrics.ts";
import { modelRoutes } from "./models.ts";
import { openapiRoutes } from "./openapi.ts";
import { responseRoutes } from "./responses.ts";
import { statusPageRoutes } from "./status_page.ts";
import { tokenizeRoutes } from "./tokenize.ts";
import { versionRoutes } from "./version.ts";

/**
 * The app that serves a model.
 *
 * @example
 * ```ts ignore
 * const app = createApp({ engine, modelNames: ["demo"], ... });
 * Deno.serve({ hostname: "127.0.0.1", port: 8000 }, app.fetch);
 * ```
 */
export function createApp(context: ServerContext): Hono {
  const server = createServer(context);
  const app = new Hono();
  app.use(async (c, next) => {
    const requestId = requestIdOf(c);
    await next();
    c.res.headers.set("x-request-id", requestId);
    server.metrics.countResponse(matchedRoute(c), c.res.status);
  });
  const { corsOrigins = [] } = context;
  // Before the key: a browser asks whether it may send one without sending it.
  if (corsOrigins.length > 0) app.use(cors(corsOrigins));
  if (server.asksForKey) app.use(bearerAuth(context.apiKeys ?? []));

  const families = [
    chatCompletionRoutes(server),
    completionRoutes(server),
    responseRoutes(server),
    modelRoutes(server),
    healthRoutes(server),
    versionRoutes(server),
    tokenizeRoutes(server),
    kvRoutes(server),
    kvCompareRoutes(server),
    metricsRoutes(server),
    openapiRoutes(server),
    statusPageRoutes(server),
  ];
  for (const family of families) app.route("/", family);
  app.notFound((c) => errorResponse(notFound(app, c)));
  app.onError((error) => {
    const apiError = error instanceof HTTPException ? fromHttpException(error) : toApiError(error);
    if (apiError.status === STATUS_CODE.InternalServerError) console.error(apiError.options.cause);
    return errorResponse(apiError);
  });
  return app;
}

/** The client's own id when it is short and printable, else a new one. */
function requestIdOf(c: Context): string {
  const given = c.req.header("x-request-id");
  return given !== undefined && /^[\x21-\x7e]{1,128}$/.test(given) ? given : crypto.randomUUID();
}

/** Pattern of the route that answered; middleware's is "/*". */
function matchedRoute(c: Context): string {
  return matchedRoutes(c).findLast(({ path }) => path !== "/*")?.path ?? "unknown";
}

/** 405 when the path exists for other methods, else 404. */
function notFound(app: Hono, c: Context): ApiError {
  const { path, method } = c.req;
  const methods = app.routes.filter((route) => route.method !== "ALL" && matches(route.path, path)).map((r) =>
    r.method
  );
  if (methods.length === 0) {
    return new ApiError(STATUS_CODE.NotFound, `No such route: ${method} ${path.slice(0, 200)}`, { code: "not_found" });
  }
  const allow = [...new Set(methods.flatMap((one) => one === "GET" ? ["GET", "HEAD"] : [one]))].join(", ");
  return new ApiError(STATUS_CODE.MethodNotAllowed, `${path} allows ${allow}, received ${method}`, {
    code: "method_not_allowed",
    headers: { allow },
  });
}

function matches(pattern: string, path: string): boolean {
  const parameter = pattern.indexOf(":");
  return parameter < 0 ? pattern === path : path.startsWith(pattern.slice(0, parameter)) && path.length > parameter;
}

function fromHttpException(error: HTTPException): ApiError {
  const status = isStatus(error.status) ? error.status : STATUS_CODE.InternalServerError;
  return new ApiError(status, error.message || "The request cannot be served", { cause: error });
}
