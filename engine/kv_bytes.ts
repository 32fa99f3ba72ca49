/**
 * How many bytes a token takes in a KV cache, without the native library. The formats are octavo.h's
 * (octavo_kv_shape); `tests/engine/kv_bytes_test.ts` compares the figures with the library's.
 *
 * @module
 */

import type { KvCacheDtype } from "./types.ts";

/** What a format stores of a row, one token's K or V of one head: bits a value, and its scales. */
interface RowFormat {
  readonly bits: number;
  /** "row": one f32; "group": one f16 for 32 values. */
  readonly scales: "none" | "row" | "group";
}

const INT8: RowFormat = { bits: 8, scales: "row" };
const INT4: RowFormat = { bits: 4, scales: "group" };
const plain = (bits: number): RowFormat => ({ bits, scales: "none" });

/** K, then V. */
const FORMATS: Readonly<Record<KvCacheDtype, readonly [RowFormat, RowFormat]>> = {
  float32: [plain(32), plain(32)],
  float16: [plain(16), plain(16)],
  bfloat16: [plain(16), plain(16)],
  fp8_e4m3: [plain(8), plain(8)],
  fp8_e5m2: [plain(8), plain(8)],
  fp8_per_token_head: [INT8, INT8],
  int8: [INT8, INT8],
  int8_per_token_head: [INT8, INT8],
  k8v4: [INT8, INT4],
  int4: [INT4, INT4],
};

const GROUP_DIMS = 32;
/** Codes of a row are padded to whole chunks. */
const CHUNK_BYTES = 16;

/** Bytes of a token over all layers, K and V; null where a layer's dtype does not take the head dimension. */
export function kvBytesPerToken(
  { numKvHeads, headDim }: { readonly numKvHeads: number; readonly headDim: number },
  layerDtypes: readonly KvCacheDtype[],
): number | null {
  let bytes = 0;
  for (const dtype of layerDtypes) {
    for (const { bits, scales } of FORMATS[dtype]) {
      if (scales === "group" && headDim % GROUP_DIMS !== 0) return null;
      const codes = Math.ceil(headDim * bits / 8 / CHUNK_BYTES) * CHUNK_BYTES;
      bytes += numKvHeads * (codes + (scales === "row" ? 4 : scales === "group" ? headDim / GROUP_DIMS * 2 : 0));
    }
  }
  return bytes;
}
