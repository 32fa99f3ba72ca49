/**
 * RoPE's inverse frequencies: angle = position x invFreq[i] turns the pair (i, i + headDim / 2).
 *
 * @module
 */

/** How a model stretches RoPE to longer texts. */
export type RopeScaling =
  | { readonly type: "default" }
  | { readonly type: "linear"; readonly factor: number }
  | {
    readonly type: "llama3";
    readonly factor: number;
    readonly lowFreqFactor: number;
    readonly highFreqFactor: number;
    readonly originalMaxLen: number;
  }
  | {
    readonly type: "yarn";
    readonly factor: number;
    readonly originalMaxLen: number;
    /** Multiplies cos and sin. */
    readonly attnFactor: number;
    readonly betaFast: number;
    readonly betaSlow: number;
    /** Round the ramp's ends outwards to whole pairs. */
    readonly truncate: boolean;
  };

export interface RopeParameters {
  /** The base. */
  readonly theta: number;
  readonly scaling: RopeScaling;
}

/** Inverse frequencies in radians per position, `[headDim / 2]`, scaling applied. */
export function inverseFrequencies({ theta, scaling }: RopeParameters, headDim: number): Float32Array {
  const plain = Array.from({ length: headDim / 2 }, (_, i) => theta ** (-2 * i / headDim));
  if (scaling.type === "linear") return Float32Array.from(plain, (freq) => freq / scaling.factor);
  if (scaling.type === "llama3") return Float32Array.from(plain, (freq) => llama3Frequency(freq, scaling));
  if (scaling.type === "yarn") return Float32Array.from(yarnFrequencies(plain, theta, headDim, scaling));
  return Float32Array.from(plain);
}

/** What multiplies cos and sin. */
export function ropeAttnFactor({ scaling }: RopeParameters): number {
  return scaling.type === "yarn" ? scaling.attnFactor : 1;
}

/**
 * Llama 3.1: long waves are stretched by the factor, short ones kept, those between blended.
 * Source: `apply_scaling` of Meta's llama-models; transformers' `_compute_llama3_parameters`.
 */
function llama3Frequency(freq: number, scaling: RopeScaling & { type: "llama3" }): number {
  const { factor, lowFreqFactor, highFreqFactor, originalMaxLen } = scaling;
  const turns = originalMaxLen * freq / (2 * Math.PI);
  if (turns > highFreqFactor) return freq;
  if (turns < lowFreqFactor) return freq / factor;
  const kept = (turns - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
  return (1 - kept) * freq / factor + kept * freq;
}

/**
 * YaRN: pairs that turn more than `betaFast` times over the original length are kept, those that turn less than
 * `betaSlow` times are stretched, a linear ramp over the pair's index lies between.
 * Source: Peng et al. 2023 (arXiv 2309.00071), section 3.2; ramp ends as in transformers' `_compute_yarn_parameters`.
 */
function yarnFrequencies(
  plain: readonly number[],
  theta: number,
  headDim: number,
  scaling: RopeScaling & { type: "yarn" },
): number[] {
  const { factor, originalMaxLen, betaFast, betaSlow, truncate } = scaling;
  const pairOf = (turns: number) => headDim * Math.log(originalMaxLen / (turns * 2 * Math.PI)) / (2 * Math.log(theta));
  const [first, last] = [pairOf(betaFast), pairOf(betaSlow)];
  const low = Math.max(truncate ? Math.floor(first) : first, 0);
  let high = Math.min(truncate ? Math.ceil(last) : last, headDim - 1);
  if (high === low) high += 0.001;
  return plain.map((freq, i) => {
    const stretched = Math.min(Math.max((i - low) / (high - low), 0), 1);
    return freq * (1 - stretched) + freq / factor * stretched;
  });
}

/** YaRN's default for what multiplies cos and sin: 0.1 x weight x ln(factor) + 1. */
export function yarnAttnFactor(factor: number, weight = 1): number {
  return factor <= 1 ? 1 : 0.1 * weight * Math.log(factor) + 1;
}
