/**
 * A checked {@linkcode ModelConfig} from what `gguf_config.ts` or `hf_config.ts` read.
 *
 * @module
 */

import type { Architecture } from "./architectures.ts";
import { ModelFileError } from "./errors.ts";
import { inverseFrequencies, ropeAttnFactor, type RopeParameters } from "./rope.ts";
import type { LayerConfig, ModelConfig } from "./types.ts";

/** Ranges of sizes: beyond any real model, so that a lying file cannot make us allocate without bound. */
export const limits = {
  layers: { min: 1, max: 4096 },
  heads: { min: 1, max: 4096 },
  headDim: { min: 8, max: 256 },
  hidden: { min: 1, max: 1 << 20 },
  intermediate: { min: 1, max: 1 << 24 },
  vocab: { min: 1, max: 1 << 24 },
  length: { min: 1, max: 1 << 30 },
  epsilon: { min: 1e-12, max: 0.1 },
  softcap: { min: 0, max: 1e6 },
  scalar: { min: 1e-6, max: 1e6 },
  theta: { min: 1.0001, max: 1e12 },
  factor: { min: 1e-3, max: 1e6 },
} as const;

/** A model's settings with the file's own names, for error messages, where they can contradict each other. */
export interface ModelSettings {
  readonly file: string;
  readonly architecture: Architecture;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numQHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly maxModelLen: number;
  readonly rmsNormEps: number;
  readonly normWeightOffset: number;
  /** 1 / sqrt of it multiplies q·k. */
  readonly queryScalar: number;
  readonly attnLogitSoftcap: number;
  readonly finalLogitSoftcap: number;
  /** One a layer; 0 = all keys. */
  readonly windows: readonly number[];
  /** Of layers that see all keys, and of layers with a window. */
  readonly rope: readonly [RopeParameters, RopeParameters];
  readonly dtype: ModelConfig["dtype"];
  readonly fieldNames: { readonly headDim: string; readonly numKvHeads: string };
}

/**
 * @throws {ModelFileError} When settings contradict each other or go beyond what the kernels take.
 */
export function modelConfig(settings: ModelSettings): ModelConfig {
  const { architecture, headDim, numQHeads, numKvHeads, rope, file, fieldNames } = settings;
  if (headDim % 8 !== 0 || headDim > limits.headDim.max) {
    throw new ModelFileError(file, fieldNames.headDim, "must be a multiple of 8, at most 256", headDim);
  }
  if (numQHeads % numKvHeads !== 0) {
    throw new ModelFileError(file, fieldNames.numKvHeads, `must divide the ${numQHeads} query heads`, numKvHeads);
  }
  const hasTwoRopes = JSON.stringify(rope[0]) !== JSON.stringify(rope[1]);
  const invFreq = new Float32Array(headDim);
  rope.forEach((parameters, table) => invFreq.set(inverseFrequencies(parameters, headDim), table * headDim / 2));
  return {
    architecture: architecture.name,
    vocabSize: settings.vocabSize,
    hiddenSize: settings.hiddenSize,
    intermediateSize: settings.intermediateSize,
    numLayers: settings.windows.length,
    numQHeads,
    numKvHeads,
    headDim,
    maxModelLen: Math.min(Math.max(settings.maxModelLen, limits.length.min), limits.length.max),
    activation: architecture.activation,
    rmsNormEps: settings.rmsNormEps,
    normWeightOffset: settings.normWeightOffset,
    // transformers rounds it to the weights' dtype when it runs in bfloat16; in float32 it is exact, as here.
    embeddingScale: architecture.isGemma ? Math.sqrt(settings.hiddenSize) : 1,
    attnSoftmaxScale: 1 / Math.sqrt(settings.queryScalar),
    attnLogitSoftcap: settings.attnLogitSoftcap,
    finalLogitSoftcap: settings.finalLogitSoftcap,
    layers: settings.windows.map((window): LayerConfig => ({
      slidingWindow: window,
      ropeTable: hasTwoRopes && window > 0 ? 1 : 0,
    })),
    invFreq,
    ropeAttnFactor: [ropeAttnFactor(rope[0]), ropeAttnFactor(rope[1])],
    dtype: settings.dtype,
  };
}

/** Windows of a model in which every n-th layer sees all keys: n - 1 windows, then none. */
export function periodicWindows(numLayers: number, fullLayerEvery: number, window: number): number[] {
  return Array.from({ length: numLayers }, (_, layer) => (layer + 1) % fullLayerEvery === 0 ? 0 : window);
}

/** Longest text after stretching a model made for `maxLen` tokens. */
export function stretchedLen(maxLen: number, { scaling }: RopeParameters): number {
  if (scaling.type === "yarn") return Math.floor(Math.max(maxLen, scaling.originalMaxLen * scaling.factor));
  return scaling.type === "linear" ? Math.floor(maxLen * scaling.factor) : maxLen;
}
