/**
 * Which scales an FP8 KV cache gets, layer by layer: those of a file given for it, else the checkpoint's, else 1 (or what
 * the first step calculates).
 *
 * @module
 */

import type { CheckpointKvCache, KvScaleTable, LayerKvScales } from "../models/types.ts";
import type { KvCacheDtype } from "./types.ts";

export interface KvScaleOptions {
  readonly checkpoint: CheckpointKvCache;
  /** Of `--kv-scales`; null = not given. */
  readonly file: KvScaleTable | null;
  /** Of each layer. */
  readonly layerDtypes: readonly KvCacheDtype[];
  /** Of each layer too, for means of K, where sequences of several dtypes are stored; left out: the same. */
  readonly meanDtypes?: readonly KvCacheDtype[];
  readonly calculate: boolean;
  /** Any problem is an error, as is a layer left at 1. */
  readonly strict: boolean;
}

/** K's mean of one layer. */
export interface LayerKMean {
  /** `[numKvHeads][headDim]` */
  readonly values: Float32Array;
  readonly source: "file" | "checkpoint";
}

/** The decision. */
export interface KvScaleChoice {
  /** Of each layer; null where its dtype takes none from outside. */
  readonly layers: readonly (LayerKvScales | null)[];
  /** Of each layer, what its rotated cache takes off K; null = nothing. */
  readonly means: readonly (LayerKMean | null)[];
  /** The first step sets all scales. */
  readonly calculate: boolean;
  /** For the log: what is wrong, naming the layers, and what E5M2 costs; null = nothing to say. */
  readonly warning: string | null;
}

const DEFAULT_SCALES: LayerKvScales = Object.freeze({ k: [1], v: [1], granularity: "tensor", source: "default" });

/** True for the dtypes that take scales from outside. */
export function takesKvScales(dtype: KvCacheDtype): boolean {
  return dtype === "fp8_e4m3" || dtype === "fp8_e5m2";
}

/** True for the dtypes that rotate K, and can take its mean off before. */
export function takesKMean(dtype: KvCacheDtype): boolean {
  return dtype === "int8" || dtype === "k8v4" || dtype === "int4";
}

/**
 * Decides every layer's scales and means.
 *
 * @throws {RangeError} Scales were given for a cache that takes none or is E5M2; or `strict` and something is wrong.
 */
export function chooseKvScales(options: KvScaleOptions): KvScaleChoice {
  const { checkpoint, file, layerDtypes, strict } = options;
  const taking = layerDtypes.flatMap((dtype, layer) => takesKvScales(dtype) ? [layer] : []);
  const means = (options.meanDtypes ?? layerDtypes).map((dtype, layer) =>
    takesKMean(dtype) ? kMean(options, layer) : null
  );
  if (taking.length === 0) {
    if (file !== null && !means.some((mean) => mean?.source === "file")) {
      const found = [...new Set(layerDtypes)].join(", ");
      throw new RangeError(
        `kv_scales needs kv_cache_dtype fp8_e4m3, or int8, k8v4 or int4 where it has means of K, found ${found}`,
      );
    }
    return { layers: layerDtypes.map(() => null), means, calculate: false, warning: null };
  }
  const tables = file === null ? [checkpoint.scales] : [file, checkpoint.scales];
  const hasScales = tables.some(({ layers }) => layers.some((layer) => layer !== null));
  if (hasScales && layerDtypes.includes("fp8_e5m2")) {
    const whose = file === null ? "the checkpoint brings" : "kv_scales gives";
    throw new RangeError(`kv_cache_dtype fp8_e5m2 cannot be used where ${whose} scales, which are for fp8_e4m3`);
  }
  const layers = layerDtypes.map((dtype, layer) =>
    takesKvScales(dtype)
      ? tables.map((table) => table.layers[layer] ?? null).find((found) => found !== null) ?? DEFAULT_SCALES
      : null
  );
  const problems = problemsOf(options, layers, hasScales);
  if (strict && problems.length > 0) throw new RangeError(`KV scales are not complete: ${problems.join("; ")}`);
  return {
    layers,
    means,
    calculate: options.calculate && !hasScales,
    warning: warningOf(problems, layerDtypes),
  };
}

function warningOf(problems: readonly string[], layerDtypes: readonly KvCacheDtype[]): string | null {
  const warnings = problems.length === 0 ? [] : [`KV scales: ${problems.join("; ")}`];
  if (layerDtypes.includes("fp8_e5m2")) {
    warnings.push("A KV cache of fp8_e5m2 has half of fp8_e4m3's precision; int8 is the most accurate of as many bits");
  }
  return warnings.length === 0 ? null : warnings.join(". ");
}

function kMean({ file, checkpoint }: KvScaleOptions, layer: number): LayerKMean | null {
  const ofFile = file?.means[layer] ?? null;
  if (ofFile !== null) return { values: ofFile, source: "file" };
  const ofCheckpoint = checkpoint.scales.means[layer] ?? null;
  return ofCheckpoint === null ? null : { values: ofCheckpoint, source: "checkpoint" };
}

function problemsOf(
  { checkpoint, file, calculate, strict }: KvScaleOptions,
  layers: readonly (LayerKvScales | null)[],
  hasScales: boolean,
): string[] {
  // A file that is complete makes the checkpoint's faults irrelevant.
  const isFileComplete = layers.every((layer) => layer === null || layer.source === "file");
  const problems = [...file?.problems ?? [], ...isFileComplete ? [] : checkpoint.scales.problems];
  const atOne = layers.flatMap((layer, index) => layer?.source === "default" ? [index] : []);
  if (!hasScales && checkpoint.fp8AskedBy !== null && !calculate) {
    problems.push(`${checkpoint.fp8AskedBy} asks for an FP8 cache but no layer has usable scales, 1 is used`);
  } else if (strict && atOne.length > 0 && problems.length === 0) {
    problems.push(`layers ${atOne.join(", ")} have none`);
  }
  const given = layers.filter((layer) => layer !== null && layer.source !== "default");
  if (given.length > 0 && given.every((layer) => [...layer!.k, ...layer!.v].every((scale) => scale === 1))) {
    problems.push("all are exactly 1, as if never calibrated");
  }
  if (hasScales && calculate) problems.push("those of the files are used, calculate_kv_scales has no effect");
  return problems;
}

/** As the native library takes them: `[numLayers][2][numKvHeads]`. Null when every one is 1. */
export function nativeKvScales(
  layers: readonly (LayerKvScales | null)[],
  numKvHeads: number,
): Float32Array<ArrayBuffer> | null {
  if (layers.every((layer) => layer === null || layer.source === "default")) return null;
  const scales = new Float32Array(layers.length * 2 * numKvHeads).fill(1);
  layers.forEach((layer, index) => {
    if (layer === null) return;
    [layer.k, layer.v].forEach((values, kind) => {
      for (let head = 0; head < numKvHeads; head++) {
        scales[(index * 2 + kind) * numKvHeads + head] = values.length === 1 ? values[0]! : values[head]!;
      }
    });
  });
  return scales;
}

/** As the native library takes them: `[numLayers][numKvHeads][headDim]`. Null when there are none. */
export function nativeKMean(
  means: readonly (LayerKMean | null)[],
  { numKvHeads, headDim }: { readonly numKvHeads: number; readonly headDim: number },
): Float32Array<ArrayBuffer> | null {
  if (means.every((mean) => mean === null)) return null;
  const all = new Float32Array(means.length * numKvHeads * headDim);
  means.forEach((mean, layer) => {
    if (mean !== null) all.set(mean.values, layer * numKvHeads * headDim);
  });
  return all;
}

/** Scales that the engine has calculated, `[numLayers][2][numKvHeads]`, in the form of those that files bring. */
export function calculatedKvScales(
  scales: Float32Array,
  layerDtypes: readonly KvCacheDtype[],
): (LayerKvScales | null)[] {
  const numKvHeads = scales.length / layerDtypes.length / 2;
  return layerDtypes.map((dtype, layer) => {
    if (!takesKvScales(dtype)) return null;
    const [k, v] = [0, 1].map((part) => [scales[(layer * 2 + part) * numKvHeads]!]);
    return { k: k!, v: v!, granularity: "tensor", source: "calculated" };
  });
}

/** A line a layer that has scales. */
export function kvScaleLines(layers: readonly (LayerKvScales | null)[]): string {
  const text = (scales: readonly number[]) => scales.map((scale) => scale.toPrecision(4)).join(" ");
  return layers.flatMap((layer, index) =>
    layer === null ? [] : [`  layer ${index}: K ${text(layer.k)}, V ${text(layer.v)}`]
  ).join("\n");
}

/** The scales in words, for the start-up report: "checkpoint, a tensor, K 0.02..0.04, V 0.001..0.03". */
export function describeKvScales(layers: readonly (LayerKvScales | null)[]): string | null {
  const given = layers.filter((layer) => layer !== null);
  if (given.length === 0) return null;
  const sources = [...new Set(given.map((layer) => layer.source))].map((source) =>
    `${source} (${given.filter((layer) => layer.source === source).length} layers)`
  );
  const range = (values: readonly number[]) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return low === high ? `${low.toPrecision(3)}` : `${low.toPrecision(3)} to ${high.toPrecision(3)}`;
  };
  const unit = given.some((layer) => layer.granularity === "head") ? "one a head" : "one a layer";
  return `${sources.join(", ")}, ${unit}: K ${range(given.flatMap((layer) => layer.k))}, ` +
    `V ${range(given.flatMap((layer) => layer.v))}`;
}
