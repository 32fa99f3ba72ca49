/**
 * `/version`.
 *
 * @module
 */

import { Hono } from "hono";
import type { Server } from "./_server.ts";

/** The version route. */
export function versionRoutes({ version }: Server): Hono {
  return new Hono().get("/version", (c) => c.json({ version }));
}
