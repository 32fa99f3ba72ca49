/**
 * `/health` and `/health/live`: the process works and its engine runs; `/health/ready`: it takes requests and makes
 * progress. Both read shared counters and never wait for the engine.
 *
 * @module
 */

import { Hono } from "hono";
import { STATUS_CODE } from "@std/http/status";
import type { Server } from "./_server.ts";
import { ApiError } from "./errors.ts";

/** Paths that never ask for a key. */
export const LIVENESS_PATHS: readonly string[] = ["/health", "/health/live"];

/** The health routes. */
export function healthRoutes(server: Server): Hono {
  const app = new Hono();
  for (const path of LIVENESS_PATHS) {
    app.get(path, (c) => {
      if (!server.engine.stats().alive) throw notHealthy("The engine is not running");
      return c.json({ status: "ok" });
    });
  }
  app.get("/health/ready", (c) => {
    const reason = whyNotReady(server);
    if (reason !== null) throw notHealthy(reason);
    return c.json({ status: "ready" });
  });
  return app;
}

function whyNotReady({ engine, isDraining, stallMs }: Server): string | null {
  const { alive, numRequestsRunning, lastStepAgeMs } = engine.stats();
  if (!alive) return "The engine is not running";
  if (isDraining()) return "The server is shutting down";
  if (numRequestsRunning > 0 && lastStepAgeMs !== null && lastStepAgeMs > stallMs) {
    return `Requests are running, but no step has ended for ${Math.round(lastStepAgeMs / 1000)} s`;
  }
  return null;
}

function notHealthy(message: string): ApiError {
  return new ApiError(STATUS_CODE.ServiceUnavailable, message, { code: "not_ready", retryAfterS: 5 });
}
