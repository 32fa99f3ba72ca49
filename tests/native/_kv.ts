/**
 * KV pages for tests: the layout of `octavo_kv_shape` as an address function of its own, and deterministic random data.
 *
 * @module
 */
import { KV_DTYPE } from "../../ffi/enums.ts";
import { KV_SHAPE } from "../../ffi/structs.ts";

/** Names of the stored formats. */
export type KvDtype = keyof typeof KV_DTYPE;

/** All stored formats. */
export const KV_DTYPES = Object.keys(KV_DTYPE) as KvDtype[];

/** What `octavo_kv_shape` describes. */
export interface KvShape {
  readonly kvDtype: KvDtype;
  readonly pageSize: number;
  readonly numPages: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  /** Bytes from a page to the next; left out: a page's. */
  readonly pageStride?: number;
}

/** The shape as the ABI's struct. */
export function encodeShape(shape: KvShape): Uint8Array<ArrayBuffer> {
  return KV_SHAPE.encode({
    kv_dtype: KV_DTYPE[shape.kvDtype],
    page_size: shape.pageSize,
    num_pages: shape.numPages,
    num_kv_heads: shape.numKvHeads,
    head_dim: shape.headDim,
    page_stride: shape.pageStride ?? 0,
  });
}

/** Bytes of one stored element of a format without scales of its own. */
export function elementBytes(kvDtype: KvDtype): number {
  return kvDtype === "float32" ? 4 : kvDtype.endsWith("float16") ? 2 : 1;
}

/** Whether scales lie with the tokens; else the caller gives them. */
export function hasOwnScales(kvDtype: KvDtype): boolean {
  return /^int|k8v4|per_token_head/.test(kvDtype);
}

/** Whether K's, or V's, codes have 4 bits and a scale for 32 dims. */
export function isInt4(kvDtype: KvDtype, part: "k" | "v"): boolean {
  return kvDtype === "int4" || kvDtype === "k8v4" && part === "v";
}

/** Whether the format can store rows of headDim. */
export function takesHeadDim(kvDtype: KvDtype, headDim: number): boolean {
  return headDim % 32 === 0 || !isInt4(kvDtype, "v");
}

/** Bytes of a row's codes. */
export function codeBytes(kvDtype: KvDtype, headDim: number, part: "k" | "v"): number {
  return isInt4(kvDtype, part) ? headDim / 2 : headDim * elementBytes(kvDtype);
}

/** Number and bytes of the scales that lie with a row. */
export function scalesOf(kvDtype: KvDtype, headDim: number, part: "k" | "v"): { count: number; bytes: number } {
  if (isInt4(kvDtype, part)) return { count: headDim / 32, bytes: 2 };
  return { count: hasOwnScales(kvDtype) ? 1 : 0, bytes: 4 };
}

/** Bytes of one row as `octavo_kv_pack` has it: codes, then their scales. */
export function packedBytes(kvDtype: KvDtype, headDim: number, part: "k" | "v"): number {
  const { count, bytes } = scalesOf(kvDtype, headDim, part);
  return codeBytes(kvDtype, headDim, part) + count * bytes;
}

/** Offsets in a granule of K's and V's codes and scales, and its end. */
function granuleParts({ kvDtype, headDim }: KvShape) {
  const codes = (part: "k" | "v") => 16 * Math.ceil(codeBytes(kvDtype, headDim, part) / 16) * 16;
  const scales = (part: "k" | "v") => {
    const { count, bytes } = scalesOf(kvDtype, headDim, part);
    return 16 * count * bytes;
  };
  const v = codes("k");
  const kScales = v + codes("v");
  const vScales = kScales + scales("k");
  return { k: 0, v, kScales, vScales, end: vScales + scales("v") };
}

function granuleBytes(shape: KvShape): number {
  return granuleParts(shape).end;
}

/** Bytes of one page, written from octavo.h. */
export function pageBytes(shape: KvShape): number {
  return shape.numKvHeads * (shape.pageSize / 16) * granuleBytes(shape);
}

/** Where a token's row of K or V lies. */
export interface RowPlace {
  readonly slot: number;
  readonly head: number;
  readonly part: "k" | "v";
}

/** Offset of the granule in the pages that holds a row. */
function granuleAddress(shape: KvShape, { slot, head }: RowPlace): number {
  const granule = Math.floor(slot % shape.pageSize / 16);
  return Math.floor(slot / shape.pageSize) * (shape.pageStride ?? pageBytes(shape)) +
    (head * (shape.pageSize / 16) + granule) * granuleBytes(shape);
}

/** Byte address in the pages of a row's scale; written from octavo.h's description, not from the library. */
export function scaleAddress(shape: KvShape, at: RowPlace & { readonly index: number }): number {
  const parts = granuleParts(shape);
  const { bytes } = scalesOf(shape.kvDtype, shape.headDim, at.part);
  return granuleAddress(shape, at) + (at.part === "k" ? parts.kScales : parts.vScales) +
    (at.index * 16 + at.slot % 16) * bytes;
}

/** Byte address in the pages of one byte of a row's codes; written as {@linkcode scaleAddress}. */
export function byteAddress(shape: KvShape, at: RowPlace & { readonly byte: number }): number {
  const rowBytes = Math.ceil(codeBytes(shape.kvDtype, shape.headDim, at.part) / 16) * 16;
  const token = at.slot % 16;
  const block = Math.floor(at.byte / 128);
  const width = Math.min(128, rowBytes - 128 * block);
  const chunk = Math.floor(at.byte % 128 / 16);
  const swizzled = width === 128 ? chunk ^ (token & 7) : width === 64 ? chunk ^ ((token >> 1) & 3) : chunk;
  return granuleAddress(shape, at) + granuleParts(shape)[at.part] + block * 128 * 16 + token * width +
    swizzled * 16 + at.byte % 16;
}

/** Uniform random numbers in [0, 1) from a 32-bit seed (mulberry32). */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 4294967296;
  };
}

/** Roughly normal values of the given standard deviation. */
export function randomFloats(n: number, random: () => number, deviation = 1): Float32Array<ArrayBuffer> {
  return Float32Array.from(
    { length: n },
    () => (random() + random() + random() + random() - 2) * 1.7320508 * deviation,
  );
}

/** The numbers 0 to n - 1 in random order. */
export function shuffled(n: number, random: () => number): number[] {
  const order = Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  return order;
}
