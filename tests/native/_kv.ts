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
}

/** The shape as the ABI's struct. */
export function encodeShape(shape: KvShape): Uint8Array<ArrayBuffer> {
  return KV_SHAPE.encode({
    kv_dtype: KV_DTYPE[shape.kvDtype],
    page_size: shape.pageSize,
    num_pages: shape.numPages,
    num_kv_heads: shape.numKvHeads,
    head_dim: shape.headDim,
    reserved: 0,
  });
}

/** Bytes of one stored element. */
export function elementBytes(kvDtype: KvDtype): number {
  return kvDtype === "float32" ? 4 : kvDtype.endsWith("float16") ? 2 : 1;
}

/** Bytes of the scale that lies with each token's row; 0 where the caller gives scales. */
export function scaleBytes(kvDtype: KvDtype): number {
  return kvDtype.startsWith("int8") || kvDtype === "fp8_per_token_head" ? 4 : 0;
}

/** Bytes of one row as `octavo_kv_pack` has it: elements, then their scale. */
export function packedBytes(kvDtype: KvDtype, headDim: number): number {
  return headDim * elementBytes(kvDtype) + scaleBytes(kvDtype);
}

function granuleBytes({ kvDtype, headDim }: KvShape): number {
  return 2 * 16 * (Math.ceil(headDim * elementBytes(kvDtype) / 16) * 16 + scaleBytes(kvDtype));
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
  return Math.floor(slot / shape.pageSize) * pageBytes(shape) +
    (head * (shape.pageSize / 16) + granule) * granuleBytes(shape);
}

/** Byte address in the pages of a row's scale; written from octavo.h's description, not from the library. */
export function scaleAddress(shape: KvShape, at: RowPlace): number {
  const scales = 16 * scaleBytes(shape.kvDtype);
  return granuleAddress(shape, at) + granuleBytes(shape) - (at.part === "k" ? 2 : 1) * scales +
    at.slot % 16 * scaleBytes(shape.kvDtype);
}

/** Byte address in the pages of one byte of a row's elements; written as {@linkcode scaleAddress}. */
export function byteAddress(shape: KvShape, at: RowPlace & { readonly byte: number }): number {
  const rowBytes = Math.ceil(shape.headDim * elementBytes(shape.kvDtype) / 16) * 16;
  const token = at.slot % 16;
  const block = Math.floor(at.byte / 128);
  const width = Math.min(128, rowBytes - 128 * block);
  const chunk = Math.floor(at.byte % 128 / 16);
  const swizzled = width === 128 ? chunk ^ (token & 7) : width === 64 ? chunk ^ ((token >> 1) & 3) : chunk;
  return granuleAddress(shape, at) + (at.part === "v" ? 16 * rowBytes : 0) + block * 128 * 16 + token * width +
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
