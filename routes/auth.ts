/**
 * Deny by default: with a key set, every route asks for it, unknown ones too; only liveness does not.
 *
 * @module
 */

import { createHash, timingSafeEqual } from "node:crypto";
import type { MiddlewareHandler } from "hono";
import { STATUS_CODE } from "@std/http/status";
import { ApiError } from "./errors.ts";
import { LIVENESS_PATHS } from "./health.ts";

/** Asks for `Authorization: Bearer <apiKey>`. */
export function bearerAuth(apiKey: string): MiddlewareHandler {
  const expected = digest(apiKey);
  return async (c, next) => {
    if (!LIVENESS_PATHS.includes(c.req.path)) {
      const given = /^bearer +(\S+) *$/i.exec(c.req.header("authorization") ?? "")?.[1];
      // Digests have one length, so the comparison takes the same time whatever was sent.
      if (given === undefined || !timingSafeEqual(digest(given), expected)) throw unauthorized(given !== undefined);
    }
    await next();
  };
}

function digest(text: string): Uint8Array {
  return createHash("sha256").update(text).digest();
}

function unauthorized(hasKey: boolean): ApiError {
  const message = hasKey
    ? "The API key is not the server's"
    : 'The server asks for an API key; send it as the header "Authorization: Bearer <key>"';
  return new ApiError(STATUS_CODE.Unauthorized, message, {
    code: "invalid_api_key",
    headers: { "www-authenticate": "Bearer" },
  });
}
