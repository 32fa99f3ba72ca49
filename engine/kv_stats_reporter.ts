/**
 * Tells now and then what the cache makes of K and V (`--kv-cache-stats`).
 *
 * @module
 */

import { KV_STATS_FIELDS, type KvStats } from "../ffi/kv_stats.ts";
import { nowMs } from "./clock.ts";
import type { KvCacheStats, KvPartStats } from "./types.ts";

/** Reading waits for the step under way, so a busy engine is not asked more often. */
const INTERVAL_MS = 1000;

export interface KvStatsShape {
  readonly numLayers: number;
  readonly numKvHeads: number;
  readonly headDim: number;
}

/** Calls `report` after steps, at most once a second while there is work, and once when it is done. */
export class KvStatsReporter {
  #lastMs = -Infinity;

  constructor(
    readonly engine: { kvStats(): KvStats },
    readonly shape: KvStatsShape,
    readonly report: (stats: KvCacheStats) => void,
    readonly now: () => number = nowMs,
  ) {}

  afterStep(isIdle: boolean): void {
    const now = this.now();
    if (!isIdle && now - this.#lastMs < INTERVAL_MS) return;
    this.#lastMs = now;
    this.report(summarizeKvStats(this.engine.kvStats(), this.shape));
  }
}

/** Layer by layer: the largest, sum and mean over a part's heads. */
export function summarizeKvStats(
  { stats, numTokens }: KvStats,
  { numLayers, numKvHeads, headDim }: KvStatsShape,
): KvCacheStats {
  const partOf = (layer: number, part: number): KvPartStats => {
    const total = { absmax: 0, numSaturated: 0, squares: 0, errors: 0 };
    for (let head = 0; head < numKvHeads; head++) {
      const at = ((layer * 2 + part) * numKvHeads + head) * KV_STATS_FIELDS;
      total.absmax = Math.max(total.absmax, stats[at]!);
      total.numSaturated += stats[at + 1]!;
      total.squares += stats[at + 2]!;
      total.errors += stats[at + 3]!;
    }
    const { absmax, numSaturated, squares, errors } = total;
    return { absmax, numSaturated, error: squares > 0 ? Math.sqrt(errors / squares) : null };
  };
  return {
    numTokens,
    numElements: numTokens * numLayers * numKvHeads * headDim,
    layers: Array.from({ length: numLayers }, (_, layer) => ({ k: partOf(layer, 0), v: partOf(layer, 1) })),
  };
}
