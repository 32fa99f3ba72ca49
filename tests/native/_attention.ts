/**
 * Attention for tests: sequences with stored K and V, the call through the ABI, and the same in f64.
 *
 * @module
 */
import { DTYPE, KV_DTYPE } from "../../ffi/enums.ts";
import { ATTENTION_CONFIG } from "../../ffi/structs.ts";
import { byteAddress, codeBytes, elementBytes, encodeShape, type KvDtype, type KvShape, pageBytes } from "./_kv.ts";
import { hasOwnScales, packedBytes, randomFloats, randomNumbers, scaleAddress, scalesOf, shuffled } from "./_kv.ts";
import { openEachIsa } from "./_library.ts";
import { isRotated, packRow, rotate, unpackRow } from "./_own_scales.ts";

/** The library, once for each code path that has an attention kernel of its own. */
export const LIBRARIES = openEachIsa(
  ["octavo_quantize", "octavo_dequantize", "octavo_paged_attention"],
  ["portable", "avx2", "avx512"],
);
export type Library = (typeof LIBRARIES)[number];

/** What all sequences of a test have in common. */
export interface Heads {
  readonly kvDtype: KvDtype;
  readonly headDim: number;
  readonly numKvHeads: number;
  readonly numQHeads: number;
  /** K then V, one for each kv head; absent: 1. */
  readonly scales?: Float32Array<ArrayBuffer>;
  readonly softmaxScale?: number;
  readonly softcap?: number;
  readonly window?: number;
  readonly sinks?: Float32Array<ArrayBuffer>;
}

/** One sequence: its stored K and V and a query for every token. */
export interface Sequence {
  readonly length: number;
  /** [length][numQHeads][headDim] */
  readonly q: Float32Array<ArrayBuffer>;
  /** [length][numKvHeads] rows as `octavo_kv_pack` has them. */
  readonly k: Uint8Array<ArrayBuffer>;
  readonly v: Uint8Array<ArrayBuffer>;
}

/** Tokens [begin, end) of a sequence as queries; keys up to end - 1 are stored. */
export interface Part {
  readonly sequence: Sequence;
  readonly begin: number;
  readonly end: number;
}

/** How a call is laid out: nothing here may change a result. */
export interface Placement {
  readonly pageSize?: number;
  readonly numThreads?: number;
  readonly seed?: number;
  /** Byte that fills every unused slot and page; 0x7F and 0xFF are NaN in all FP8 formats, 0xFF.. in all others. */
  readonly poison?: number;
}

/** Results in the order of the parts' tokens. */
export interface Result {
  readonly out: Float32Array<ArrayBuffer>;
  readonly lse: Float32Array<ArrayBuffer>;
}

/** A sequence of random values, quantised by the library with the heads' scales. */
export function makeSequence(
  library: Library,
  heads: Heads,
  length: number,
  { seed = length, deviation = 1 } = {},
): Sequence {
  const { kvDtype, headDim, numKvHeads, numQHeads } = heads;
  const random = randomNumbers(seed);
  const scaleOf = (part: number, head: number) => heads.scales?.[part * numKvHeads + head] ?? 1;
  const store = (part: number) => {
    const name = part === 0 ? "k" : "v";
    const rowBytes = packedBytes(kvDtype, headDim, name);
    const stored = new Uint8Array(length * numKvHeads * rowBytes);
    const values = randomFloats(length * numKvHeads * headDim, random, deviation);
    if (hasOwnScales(kvDtype)) {
      for (let row = 0; row < length * numKvHeads; row++) {
        const x = values.subarray(row * headDim, (row + 1) * headDim);
        stored.set(packRow(library, kvDtype, name, x), row * rowBytes);
      }
      return stored;
    }
    for (let head = 0; head < numKvHeads; head++) {
      const rows = new Float32Array(length * headDim);
      for (let t = 0; t < length; t++) {
        rows.set(
          values.subarray((t * numKvHeads + head) * headDim, (t * numKvHeads + head + 1) * headDim),
          t * headDim,
        );
      }
      const bytes = new Uint8Array(length * rowBytes);
      library.check(
        library.symbols.octavo_quantize(KV_DTYPE[kvDtype], rows, rows.length, scaleOf(part, head), bytes),
      );
      for (let t = 0; t < length; t++) {
        stored.set(bytes.subarray(t * rowBytes, (t + 1) * rowBytes), (t * numKvHeads + head) * rowBytes);
      }
    }
    return stored;
  };
  const k = store(0);
  const v = store(1);
  return { length, q: randomFloats(length * numQHeads * headDim, random), k, v };
}

/** Pages that hold the parts' keys at random places among poison, and the page table. */
function place(heads: Heads, parts: readonly Part[], { pageSize = 16, seed = 1, poison = 0xff }: Placement) {
  const pagesOf = (part: Part) => Math.ceil(part.end / pageSize);
  const used = parts.reduce((sum, part) => sum + pagesOf(part), 0);
  const shape: KvShape = {
    kvDtype: heads.kvDtype,
    pageSize,
    numPages: used + 3,
    numKvHeads: heads.numKvHeads,
    headDim: heads.headDim,
  };
  const pages = new Uint8Array(shape.numPages * pageBytes(shape)).fill(poison);
  const free = shuffled(shape.numPages, randomNumbers(seed));
  const maxPages = Math.max(...parts.map(pagesOf));
  const pageTable = new Int32Array(parts.length * maxPages).fill(-1);
  parts.forEach((part, s) => {
    for (let p = 0; p < pagesOf(part); p++) pageTable[s * maxPages + p] = free.pop()!;
    for (let t = 0; t < part.end; t++) {
      const slot = pageTable[s * maxPages + Math.floor(t / pageSize)]! * pageSize + t % pageSize;
      for (let head = 0; head < heads.numKvHeads; head++) {
        for (const [name, rows] of [["k", part.sequence.k], ["v", part.sequence.v]] as const) {
          const rowBytes = packedBytes(heads.kvDtype, heads.headDim, name);
          const row = rows.subarray((t * heads.numKvHeads + head) * rowBytes).subarray(0, rowBytes);
          const codesEnd = codeBytes(heads.kvDtype, heads.headDim, name);
          for (let byte = 0; byte < codesEnd; byte += 8) {
            const codes = row.subarray(byte, Math.min(byte + 8, codesEnd));
            pages.set(codes, byteAddress(shape, { slot, head, part: name, byte }));
          }
          const scales = scalesOf(heads.kvDtype, heads.headDim, name);
          for (let index = 0; index < scales.count; index++) {
            const scale = row.subarray(codesEnd + index * scales.bytes).subarray(0, scales.bytes);
            pages.set(scale, scaleAddress(shape, { slot, head, part: name, index }));
          }
        }
      }
    }
  });
  return { shape, pages, pageTable, maxPages };
}

/** 1 / sqrt(headDim) as an f32, unless the heads say otherwise. */
export function softmaxScale(heads: Heads): number {
  return Math.fround(heads.softmaxScale ?? 1 / Math.sqrt(heads.headDim));
}

/** One `octavo_paged_attention` over all parts as a batch. */
export function attend(library: Library, heads: Heads, parts: readonly Part[], placement: Placement = {}): Result {
  const { shape, pages, pageTable, maxPages } = place(heads, parts, placement);
  const queryLen = Int32Array.from(parts, (part) => part.end - part.begin);
  const numTokens = queryLen.reduce((sum, n) => sum + n, 0);
  const width = heads.numQHeads * heads.headDim;
  const q = new Float32Array(numTokens * width);
  let row = 0;
  for (const { sequence, begin, end } of parts) {
    q.set(sequence.q.subarray(begin * width, end * width), row * width);
    row += end - begin;
  }
  const config = ATTENTION_CONFIG.encode({
    num_seqs: parts.length,
    num_tokens: numTokens,
    num_q_heads: heads.numQHeads,
    max_pages_per_seq: maxPages,
    sliding_window: heads.window ?? 0,
    num_threads: placement.numThreads ?? 1,
    softmax_scale: softmaxScale(heads),
    logit_softcap: heads.softcap ?? 0,
    q_dtype: DTYPE.F32,
    max_query_len: 0,
    reuse_plan: 0,
    reserved: 0,
  });
  const out = new Float32Array(numTokens * width).fill(777);
  const lse = new Float32Array(numTokens * heads.numQHeads).fill(777);
  const seqLen = Int32Array.from(parts, (part) => part.end);
  library.check(library.symbols.octavo_paged_attention(
    encodeShape(shape),
    config,
    pages,
    q,
    queryLen,
    seqLen,
    pageTable,
    heads.scales ?? null,
    heads.sinks ?? null,
    out,
    lse,
  ));
  return { out, lse };
}

/** What is stored, in rotated formats turned, without scales that the caller gives. */
function decode(
  library: Library,
  { kvDtype, headDim }: Heads,
  part: "k" | "v",
  stored: Uint8Array<ArrayBuffer>,
): Float64Array {
  if (!hasOwnScales(kvDtype)) {
    const x = new Float32Array(stored.length / elementBytes(kvDtype));
    library.check(library.symbols.octavo_dequantize(KV_DTYPE[kvDtype], stored, x.length, 1, x));
    return Float64Array.from(x);
  }
  const rowBytes = packedBytes(kvDtype, headDim, part);
  const values = new Float64Array(stored.length / rowBytes * headDim);
  for (let row = 0; row * rowBytes < stored.length; row++) {
    const packed = stored.subarray(row * rowBytes, (row + 1) * rowBytes);
    const x = unpackRow(library, kvDtype, part, packed, headDim);
    values.set(isRotated(kvDtype) ? rotate(x) : x, row * headDim);
  }
  return values;
}

/** The same attention in f64 over the dequantised stored elements, straight from the definition. */
export function attendExactly(library: Library, heads: Heads, { sequence, begin, end }: Part): {
  out: Float64Array;
  lse: Float64Array;
} {
  const { headDim, numKvHeads, numQHeads, window = 0, softcap = 0 } = heads;
  const k = decode(library, heads, "k", sequence.k);
  const v = decode(library, heads, "v", sequence.v);
  const out = new Float64Array((end - begin) * numQHeads * headDim);
  const lse = new Float64Array((end - begin) * numQHeads);
  const logits = new Float64Array(end);
  for (let token = begin; token < end; token++) {
    for (let head = 0; head < numQHeads; head++) {
      const kvHead = Math.floor(head / (numQHeads / numKvHeads));
      const kScale = heads.scales?.[kvHead] ?? 1;
      const vScale = heads.scales?.[numKvHeads + kvHead] ?? 1;
      const qRow = (token * numQHeads + head) * headDim;
      const first = window > 0 ? Math.max(0, token - window + 1) : 0;
      const sink = heads.sinks?.[head];
      let max = sink ?? -Infinity;
      for (let key = first; key <= token; key++) {
        const kRow = (key * numKvHeads + kvHead) * headDim;
        let dot = 0;
        for (let d = 0; d < headDim; d++) dot += sequence.q[qRow + d]! * k[kRow + d]!;
        dot *= softmaxScale(heads) * kScale;
        logits[key] = softcap > 0 ? softcap * Math.tanh(dot / softcap) : dot;
        max = Math.max(max, logits[key]!);
      }
      const row = (token - begin) * numQHeads + head;
      let sum = sink === undefined ? 0 : Math.exp(sink - max);
      for (let key = first; key <= token; key++) {
        const weight = Math.exp(logits[key]! - max);
        sum += weight;
        const vRow = (key * numKvHeads + kvHead) * headDim;
        for (let d = 0; d < headDim; d++) out[row * headDim + d]! += weight * v[vRow + d]! * vScale;
      }
      for (let d = 0; d < headDim; d++) out[row * headDim + d]! /= sum;
      lse[row] = max + Math.log(sum);
    }
  }
  return { out, lse };
}

/** Throws unless both results are the same, bit for bit. */
export function assertSameBits(found: Result, expected: Result, what: string) {
  for (const name of ["out", "lse"] as const) {
    const a = new Uint32Array(found[name].buffer, found[name].byteOffset, found[name].length);
    const b = new Uint32Array(expected[name].buffer, expected[name].byteOffset, expected[name].length);
    if (a.length !== b.length) throw new Error(`${what}: expected ${b.length} values of ${name}, found ${a.length}`);
    const i = a.findIndex((bits, j) => bits !== b[j]);
    if (i >= 0) throw new Error(`${what}: expected ${name}[${i}] = ${expected[name][i]}, found ${found[name][i]}`);
  }
}

/** Bounds of an error: absolute + relative |reference|, and 1 - cosine. */
export interface Bounds {
  readonly absolute: number;
  readonly relative: number;
  readonly cosine: number;
}

/** The project's bounds for any build (docs: numerics). */
export const PROJECT_BOUNDS: Bounds = { absolute: 8e-4, relative: 2.01 / 128, cosine: 5e-6 };
/** What f32 arithmetic reaches: a few ulp of the values that are added up. */
export const F32_BOUNDS: Bounds = { absolute: 3e-6, relative: 3e-6, cosine: 1e-11 };

/** Throws, naming the worst place, unless found is within bounds of expected. */
export function assertClose(found: Float32Array, expected: Float64Array, bounds: Bounds, what: string) {
  let worst = 0;
  let at = -1;
  let dot = 0;
  let foundSquares = 0;
  let expectedSquares = 0;
  for (let i = 0; i < expected.length; i++) {
    const error = Math.abs(found[i]! - expected[i]!) / (bounds.absolute + bounds.relative * Math.abs(expected[i]!));
    if (!(error <= worst)) {
      worst = error;
      at = i;
      if (Number.isNaN(error)) break;
    }
    dot += found[i]! * expected[i]!;
    foundSquares += found[i]! ** 2;
    expectedSquares += expected[i]! ** 2;
  }
  if (!(worst <= 1)) {
    throw new Error(`${what}: expected ${expected[at]} at ${at}, found ${found[at]} (${worst} x the bound)`);
  }
  const difference = 1 - 2 * dot / (foundSquares + expectedSquares);
  if (!(difference <= bounds.cosine)) throw new Error(`${what}: cosine difference ${difference}`);
}

/** Compares a whole batch with the f64 attention of each part, within both bounds. */
export function assertExact(
  library: Library,
  heads: Heads,
  parts: readonly Part[],
  result: Result,
  bounds = F32_BOUNDS,
) {
  let row = 0;
  const width = heads.numQHeads * heads.headDim;
  parts.forEach((part, s) => {
    const tokens = part.end - part.begin;
    const exact = attendExactly(library, heads, part);
    const out = result.out.subarray(row * width, (row + tokens) * width);
    const what = `sequence ${s}, tokens ${part.begin} to ${part.end} (${library.isa}, ${heads.kvDtype})`;
    assertClose(out, exact.out, PROJECT_BOUNDS, what);
    assertClose(out, exact.out, bounds, what);
    const lse = result.lse.subarray(row * heads.numQHeads, (row + tokens) * heads.numQHeads);
    assertClose(lse, exact.lse, bounds, `lse of ${what}`);
    row += tokens;
  });
}
