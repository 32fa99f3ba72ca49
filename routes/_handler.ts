/**
 * What chat and plain completions do alike: take a place at the gate, read the body, queue, answer.
 *
 * @module
 */

import type { Context } from "hono";
import type { z } from "zod";
import type { Tenant } from "../engine/types.ts";
import { type BodyOptions, readBody } from "./_body.ts";
import { type Job, respond } from "./_respond.ts";
import type { Server } from "./_server.ts";

/** A job without what every handler adds. */
export type Plan = Pick<Job, "requests" | "format" | "isStream">;

/** How an endpoint turns a body into work. */
export interface Endpoint<S extends z.ZodType> extends Pick<BodyOptions<S>, "schema" | "refused"> {
  /** @throws {ApiError | RequestError} When the request cannot be served. */
  plan(server: Server, body: z.infer<S>): Promise<Plan>;
}

/** The handler of a generation endpoint. */
export function generationHandler<S extends z.ZodType>(server: Server, endpoint: Endpoint<S>) {
  return async (c: Context): Promise<Response> => {
    const startedMs = performance.now();
    const leave = server.gate.enter();
    try {
      const { schema, refused } = endpoint;
      const body = await readBody(c.req.raw, { schema, refused, maxBytes: server.maxBodyBytes });
      const plan = await endpoint.plan(server, body);
      const tenant: Tenant | undefined = c.get("tenant");
      const requests = tenant === undefined ? plan.requests : plan.requests.map((request) => ({ ...request, tenant }));
      return await respond(server, { ...plan, requests, startedMs, signal: c.req.raw.signal, onOver: leave });
    } catch (error) {
      leave();
      throw error;
    }
  };
}

/** What every response of a generation begins with. */
export interface ResponseHead {
  readonly id: string;
  readonly created: number;
  readonly model: string;
  readonly system_fingerprint: string;
}

/** @param prefix For example "chatcmpl-". */
export function responseHead(
  server: Server,
  options: { prefix: string; requestId: string | null | undefined; model: string },
): ResponseHead {
  return {
    id: options.prefix + (options.requestId ?? crypto.randomUUID().replaceAll("-", "")),
    created: Math.floor(Date.now() / 1000),
    model: options.model,
    system_fingerprint: server.systemFingerprint,
  };
}
