/**
 * `/v1/kv`: how the KV cache is stored, layer by layer, and where its scales come from.
 *
 * @module
 */

import { Hono } from "hono";
import type { Server } from "./_server.ts";

/** The KV cache route. */
export function kvRoutes({ engine }: Server): Hono {
  return new Hono().get("/v1/kv", (c) => {
    const { info } = engine;
    return c.json({
      dtype: info.kvCacheDtype,
      reason: info.kvCacheDtypeReason,
      page_size: info.pageSize,
      num_pages: info.numPages,
      num_tokens: info.numKvTokens,
      bytes_per_token: info.kvBytesPerToken,
      layers: info.kvLayers.map(({ dtype, scales }, layer) => ({ layer, dtype, scales })),
    });
  });
}
