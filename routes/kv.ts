/**
 * `/v1/kv`: how the KV cache is stored, layer by layer, where its scales come from, and what it makes of K and V.
 *
 * @module
 */

import { Hono } from "hono";
import type { EngineInfo, EngineStats, KvPartStats } from "../engine/types.ts";
import type { Server } from "./_server.ts";

/** The KV cache route. */
export function kvRoutes({ engine }: Server): Hono {
  return new Hono().get("/v1/kv", (c) => {
    const { info } = engine;
    const stats = engine.stats();
    const { kvCache } = stats;
    return c.json({
      dtype: info.kvCacheDtype,
      reason: info.kvCacheDtypeReason,
      page_size: info.pageSize,
      num_pages: info.numPages,
      num_tokens: info.numKvTokens,
      bytes_per_token: info.kvBytesPerToken,
      dtypes: info.kvCacheDtypes.map(({ dtype, pageSize, numKvTokens, bytesPerToken }, i) => ({
        dtype,
        page_size: pageSize,
        num_tokens: numKvTokens,
        bytes_per_token: bytesPerToken,
        usage: stats.kvCacheUsageByDtype[i],
      })),
      num_host_tokens: info.numHostPages * info.pageSize,
      scales_pending_tokens: info.kvScaleTokens,
      layers: info.kvLayers.map(({ dtype, scales, kMean }, layer) => ({
        layer,
        dtype,
        scales,
        k_mean: kMean,
        ...layerStats(info, kvCache, layer),
      })),
    });
  });
}

/** Nothing where nothing is counted. */
function layerStats(info: EngineInfo, kvCache: EngineStats["kvCache"], layer: number) {
  if (kvCache === null) return {};
  const { k, v } = kvCache.layers[layer]!;
  const numElements = kvCache.numElements / info.kvLayers.length;
  const part = ({ absmax, numSaturated, error }: KvPartStats) => ({
    absmax,
    saturated: numElements > 0 ? numSaturated / numElements : 0,
    error,
  });
  return { stats: { num_tokens: kvCache.numTokens, k: part(k), v: part(v) } };
}
