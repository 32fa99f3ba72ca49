/**
 * Cross-origin requests: which pages may call the server from a browser, and read what it answers.
 *
 * @module
 */

import type { MiddlewareHandler } from "hono";
import { cors as honoCors } from "hono/cors";

/** How long a browser may remember the answer, in seconds. */
const MAX_AGE_S = 600;

/** @param origins For example "https://chat.example"; "*" among them is every origin. */
export function cors(origins: readonly string[]): MiddlewareHandler {
  return honoCors({
    origin: origins.includes("*") ? "*" : [...origins],
    allowMethods: ["GET", "HEAD", "POST"],
    exposeHeaders: ["x-request-id", "retry-after", "x-should-retry"],
    maxAge: MAX_AGE_S,
  });
}
