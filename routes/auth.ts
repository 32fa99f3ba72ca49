/**
 * Deny by default: with a key set, every route asks for one, unknown ones too; only liveness does not.
 *
 * @module
 */

import { createHash, timingSafeEqual } from "node:crypto";
import type { MiddlewareHandler } from "hono";
import { STATUS_CODE } from "@std/http/status";
import type { Tenant } from "../engine/types.ts";
import type { ApiKey } from "./api_keys.ts";
import { ApiError } from "./errors.ts";
import { LIVENESS_PATHS } from "./health.ts";

/** Asks for `Authorization: Bearer <key>` with one of the keys, and sets the context's `tenant` to that key's. */
export function bearerAuth(apiKeys: readonly ApiKey[]): MiddlewareHandler<{ Variables: { tenant: Tenant } }> {
  const expected = apiKeys.map(({ key, tenant }) => ({ digest: digest(key), tenant }));
  const tenantOf = (given: string) => {
    const found = digest(given);
    // Digests have one length, so a comparison takes the same time whatever was sent; and all of them are made.
    return expected.filter((one) => timingSafeEqual(found, one.digest))[0]?.tenant;
  };
  return async (c, next) => {
    if (!LIVENESS_PATHS.includes(c.req.path)) {
      const given = /^bearer +(\S+) *$/i.exec(c.req.header("authorization") ?? "")?.[1];
      const tenant = given === undefined ? undefined : tenantOf(given);
      if (tenant === undefined) throw unauthorized(given !== undefined);
      c.set("tenant", tenant);
    }
    await next();
  };
}

function digest(text: string): Uint8Array {
  return createHash("sha256").update(text).digest();
}

function unauthorized(hasKey: boolean): ApiError {
  const message = hasKey
    ? "The API key is none of the server's"
    : 'The server asks for an API key; send it as the header "Authorization: Bearer <key>"';
  return new ApiError(STATUS_CODE.Unauthorized, message, {
    code: "invalid_api_key",
    headers: { "www-authenticate": "Bearer" },
  });
}
