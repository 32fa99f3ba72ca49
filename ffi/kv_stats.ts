/**
 * What an engine counts of its K (after RoPE) and V: how well they are stored, or how large they are.
 *
 * @module
 */

/** `OCTAVO_KV_STATS_BINS` */
export const KV_STATS_BINS = 512;

/** Numbers of a row of {@linkcode KvStats.stats}. */
export const KV_STATS_FIELDS = 4;

/** What the cache made of K and V since the engine was opened. */
export interface KvStats {
  /**
   * Of each layer's K and V and each KV head, `[numLayers][2][numKvHeads][4]`: the largest magnitude, the number of
   * saturated elements, the sum of the squares of the elements of sampled tokens, and that of their errors.
   */
  readonly stats: Float64Array<ArrayBuffer>;
  /** Tokens stored, those stored again included. */
  readonly numTokens: number;
}

/** How large K and V are, of each layer's K and V and each KV head: `[numLayers][2][numKvHeads]`. */
export interface KvHistograms {
  /** Largest magnitude. */
  readonly absmax: Float32Array<ArrayBuffer>;
  /** Counts of magnitudes, `[...][KV_STATS_BINS]`; bin i begins at {@linkcode kvStatsBinStart}. */
  readonly histogram: Float64Array<ArrayBuffer>;
  /** K added up over all tokens, `[numLayers][numKvHeads][headDim]`. */
  readonly kSum: Float64Array<ArrayBuffer>;
}

/** Where bin i begins; eight bins an octave. */
export function kvStatsBinStart(bin: number): number {
  return 2 ** (Math.floor(bin / 8) - 24) * (1 + (bin % 8) / 8);
}
