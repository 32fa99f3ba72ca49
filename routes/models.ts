/**
 * `/v1/models`: the served model under each of its names, and what a request's `model` means.
 *
 * @module
 */

import { Hono } from "hono";
import { STATUS_CODE } from "@std/http/status";
import type { Server } from "./_server.ts";
import { ApiError } from "./errors.ts";

/** The model routes. Names may hold slashes. */
export function modelRoutes(server: Server): Hono {
  const app = new Hono();
  app.get("/v1/models", (c) => c.json({ object: "list", data: server.modelNames.map((id) => card(server, id)) }));
  app.get("/v1/models/:id{[^]+}", (c) => c.json(card(server, servedName(server, c.req.param("id")))));
  return app;
}

/**
 * The name that a request's `model` stands for: itself, or the first served name when absent.
 *
 * @throws {ApiError} 404 `model_not_found`.
 */
export function servedName({ modelNames }: Server, model: string | null | undefined): string {
  const name = model ?? modelNames[0];
  if (modelNames.includes(name)) return name;
  const names = modelNames.map((served) => `"${served}"`).join(", ");
  throw new ApiError(STATUS_CODE.NotFound, `The model "${name.slice(0, 200)}" does not exist; served: ${names}`, {
    param: "model",
    code: "model_not_found",
  });
}

function card(server: Server, id: string): Record<string, unknown> {
  return {
    id,
    object: "model",
    created: server.createdAt,
    owned_by: "octavo",
    root: server.modelNames[0],
    parent: null,
    max_model_len: server.engine.info.maxModelLen,
  };
}
