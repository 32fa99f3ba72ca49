/**
 * Scales for an FP8 (E4M3) cache, and means of K for rotated ones, from a model's own K and V on given samples.
 *
 * @module
 */

import type { Library } from "../ffi/library.ts";
import { KV_STATS_BINS, type KvHistograms, kvStatsBinStart } from "../ffi/kv_stats.ts";
import { NativeEngine } from "../ffi/native_engine.ts";
import { NativeModel } from "../ffi/native_model.ts";
import type { LayerKvScales, ModelFiles } from "../models/types.ts";
import { computeDtype } from "./compute_dtype.ts";

/** How a scale is made from what was seen. */
export const CALIBRATION_METHODS = ["absmax", "percentile", "mse"] as const;
export const CALIBRATION_GRANULARITIES = ["tensor", "head"] as const;

export interface CalibrateOptions {
  readonly library: Library;
  readonly model: ModelFiles;
  /** Token ids of each sample, at least one. */
  readonly samples: readonly (readonly number[])[];
  /** What earlier samples gave, to go on from. */
  readonly before?: { readonly numSamples: number; readonly stats: KvHistograms } | null;
  /** 0 = physical cores. */
  readonly numThreads: number;
  /** Called after every sample. */
  readonly onSample: (numSamples: number, stats: () => KvHistograms) => void;
}

const PAGE_SIZE = 16;
/** E4M3's largest value. */
const E4M3_MAX = 448;
const PERCENTILE = 0.9999;

/**
 * Runs the prefill of every sample with an exact cache (float32; on a GPU of what it computes in) and counts K, after
 * RoPE, and V.
 *
 * @throws {NativeError} The model does not load.
 */
export function collectKvHistograms(options: CalibrateOptions): KvHistograms {
  const { library, model, samples, before = null, numThreads, onSample } = options;
  const longest = samples.reduce((most, { length }) => Math.max(most, length), 2);
  const config = { ...model.config, maxModelLen: longest, computeDtype: computeDtype(model.config, model.tensors) };
  const gpuDtype = config.computeDtype === "F16" ? "float16" : "bfloat16";
  using native = new NativeModel(library, config, { numThreads });
  const files = model.paths.map((path) => native.addFile(path));
  for (const tensor of model.tensors) {
    native.loadTensor({ ...tensor, file: tensor.file === null ? null : files[tensor.file]! });
  }
  native.finish();
  const numPages = Math.ceil(longest / PAGE_SIZE);
  using engine = new NativeEngine(native, {
    kvDtype: library.deviceInfo().backend === "cpu" ? "float32" : gpuDtype,
    pageSize: PAGE_SIZE,
    numPages,
    maxNumSeqs: 1,
    maxNumBatchedTokens: longest,
    maxPagesPerSeq: numPages,
    maxLogprobs: 0,
    maxLogitEdits: 0,
    numThreads,
    kvStats: "histograms",
  });
  const stats = () => before === null ? engine.kvHistograms() : sum(before.stats, engine.kvHistograms());
  const { buffer } = engine;
  buffer.pageTable.set(Array.from({ length: numPages }, (_, page) => page));
  for (let i = before?.numSamples ?? 0; i < samples.length; i++) {
    const tokens = samples[i]!;
    buffer.header.set([1, tokens.length, 0]);
    buffer.tokens.set(tokens);
    buffer.queryLen[0] = tokens.length;
    buffer.seqLen[0] = tokens.length;
    buffer.sample[0] = 0;
    buffer.topP[0] = 1;
    buffer.repetitionPenalty[0] = 1;
    buffer.numLogprobs[0] = -1;
    engine.step();
    onSample(i + 1, stats);
  }
  return stats();
}

function sum(a: KvHistograms, b: KvHistograms): KvHistograms {
  return {
    absmax: a.absmax.map((value, i) => Math.max(value, b.absmax[i]!)),
    histogram: a.histogram.map((count, i) => count + b.histogram[i]!),
    kSum: a.kSum.map((sum, i) => sum + b.kSum[i]!),
  };
}

/** How {@linkcode calibratedScales} makes scales. */
export interface ScaleMethod {
  readonly granularity: typeof CALIBRATION_GRANULARITIES[number];
  readonly method: typeof CALIBRATION_METHODS[number];
}

/** Scales of every layer, each rounded to bfloat16, as checkpoints store them. */
export function calibratedScales(
  { absmax, histogram }: KvHistograms,
  { numLayers, numKvHeads }: { numLayers: number; numKvHeads: number },
  { granularity, method }: ScaleMethod,
): LayerKvScales[] {
  const isPerHead = granularity === "head" && numKvHeads > 1;
  const scalesOf = (layer: number, kind: 0 | 1): number[] => {
    const first = (layer * 2 + kind) * numKvHeads;
    const heads = Array.from({ length: numKvHeads }, (_, head) => first + head);
    const groups = isPerHead ? heads.map((head) => [head]) : [heads];
    return groups.map((rows) => {
      const largest = Math.max(...rows.map((row) => absmax[row]!));
      const counts = rows.map((row) => histogram.subarray(row * KV_STATS_BINS, (row + 1) * KV_STATS_BINS));
      const scale = roundToBfloat16(coveredLimit(largest, counts, method) / E4M3_MAX);
      // A layer whose values are all 0 has nothing to scale.
      return scale > 0 && Number.isFinite(scale) ? scale : 1;
    });
  };
  return Array.from({ length: numLayers }, (_, layer) => ({
    k: scalesOf(layer, 0),
    v: scalesOf(layer, 1),
    granularity: isPerHead ? "head" as const : "tensor" as const,
    source: "calibration" as const,
  }));
}

/**
 * K's mean of every layer, `[numKvHeads][headDim]`, each value rounded to bfloat16: what a rotated cache may take off K,
 * for a constant in K adds the same to all logits of a query.
 *
 * @returns Null where something beside differences of logits counts: with a soft-cap or attention sinks.
 */
export function calibratedMeans(
  { histogram, kSum }: KvHistograms,
  { config, tensors }: Pick<ModelFiles, "config" | "tensors">,
): Float32Array[] | null {
  if (config.attnLogitSoftcap > 0 || tensors.some(({ role }) => role === "attn_sinks")) return null;
  const { numLayers, numKvHeads, headDim } = config;
  return Array.from({ length: numLayers }, (_, layer) => {
    const sums = kSum.subarray(layer * numKvHeads * headDim, (layer + 1) * numKvHeads * headDim);
    return Float32Array.from(sums, (sum, i) => {
      const row = layer * 2 * numKvHeads + Math.floor(i / headDim);
      const count = histogram.subarray(row * KV_STATS_BINS, (row + 1) * KV_STATS_BINS).reduce((a, b) => a + b, 0);
      return roundToBfloat16(sum / Math.max(1, count / headDim));
    });
  });
}

/** The magnitude that becomes E4M3's largest. */
function coveredLimit(largest: number, counts: readonly Float64Array[], method: ScaleMethod["method"]): number {
  if (method === "absmax") return largest;
  const total = Array.from({ length: KV_STATS_BINS }, (_, bin) => counts.reduce((all, one) => all + one[bin]!, 0));
  return method === "percentile" ? percentile(total, largest) : leastSquares(total, largest);
}

/** Where all but one in 10,000 values are below, to the end of a histogram's bin. */
function percentile(counts: readonly number[], largest: number): number {
  const wanted = PERCENTILE * counts.reduce((all, one) => all + one, 0);
  let below = 0;
  const bin = counts.findIndex((count) => (below += count) >= wanted);
  return bin < 0 ? largest : Math.min(largest, kvStatsBinStart(bin + 1));
}

/** Of limits from the largest magnitude down by eighths of an octave, the one with the least squared error. */
function leastSquares(counts: readonly number[], largest: number): number {
  const candidates = Array.from({ length: 33 }, (_, step) => largest * 2 ** (-step / 8));
  const errors = candidates.map((limit) =>
    counts.reduce((all, count, bin) => {
      if (count === 0) return all;
      const x = Math.min(largest, (kvStatsBinStart(bin) + kvStatsBinStart(bin + 1)) / 2);
      return all + count * squaredError(x, limit);
    }, 0)
  );
  return candidates[errors.indexOf(Math.min(...errors))]!;
}

/** Expected error of a magnitude: of saturation, or of rounding to 3 bits of mantissa (a 12th of the step's square). */
function squaredError(x: number, limit: number): number {
  if (x > limit) return (x - limit) ** 2;
  const scale = limit / E4M3_MAX;
  const exponent = Math.max(-6, Math.floor(Math.log2(x / scale)));
  return (scale * 2 ** (exponent - 3)) ** 2 / 12;
}

/** To nearest even. */
function roundToBfloat16(value: number): number {
  const view = new DataView(new ArrayBuffer(4));
  view.setFloat32(0, value);
  const bits = view.getUint32(0);
  view.setUint32(0, (bits + 0x7fff + ((bits >>> 16) & 1)) & 0xffff0000);
  return view.getFloat32(0);
}
