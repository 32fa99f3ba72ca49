/**
 * A decoder-only transformer in plain f64 loops, to compare the native forward pass with. It follows the papers and the
 * layer order of Hugging Face transformers' models, without any cache: every call computes all positions.
 *
 * @module
 */
import type { NativeModelConfig, NativeTensor } from "../../ffi/native_model.ts";

type Role = NativeTensor["role"];

/** Values by role, or by `role.layer`; matrices are row-major. RoPE pairs lie in halves. */
export type Weights = ReadonlyMap<string, Float32Array>;

type Vector = number[];

/** Sees a layer's keys (after RoPE) and values: `[position][kv head][head_dim]`. */
export type KvObserver = (layer: number, k: readonly Vector[][], v: readonly Vector[][]) => void;

/** The logits of every position. */
export function referenceLogits(
  config: NativeModelConfig,
  weights: Weights,
  tokens: readonly number[],
  observe: KvObserver = () => {},
): Vector[] {
  const hidden = config.hiddenSize;
  const embedding = weights.get("token_embedding")!;
  let states = tokens.map((token) =>
    Array.from(embedding.subarray(token * hidden, (token + 1) * hidden), (x) => x * config.embeddingScale)
  );
  for (let layer = 0; layer < config.numLayers; layer++) {
    const get = (role: Role) => weights.get(`${role}.${layer}`);
    states = decoderLayer({ config, invFreq: frequencies(config, weights, layer), layer, get, observe }, states);
  }
  const head = weights.get("lm_head") ?? embedding;
  return states.map((state) => {
    const logits = multiply(head, rmsNorm(config, weights.get("output_norm")!, state), config.vocabSize);
    return logits.map((logit) => softcap(logit, config.finalLogitSoftcap));
  });
}

/** RoPE's inverse frequencies of a layer; a model's factors divide table 0. */
function frequencies(config: NativeModelConfig, weights: Weights, layer: number): Vector {
  const table = config.layers[layer]!.ropeTable;
  const half = config.headDim / 2;
  const factors = table === 0 ? weights.get("rope_factors") : undefined;
  return Array.from({ length: half }, (_, i) => Math.fround(config.invFreq[table * half + i]! / (factors?.[i] ?? 1)));
}

/** One layer's settings and tensors. */
interface Layer {
  readonly config: NativeModelConfig;
  readonly invFreq: Vector;
  readonly layer: number;
  readonly get: (role: Role) => Float32Array | undefined;
  readonly observe: KvObserver;
}

function decoderLayer(self: Layer, states: Vector[]): Vector[] {
  const { config, get } = self;
  const attended = attention(self, states.map((x) => rmsNorm(config, get("attn_norm")!, x)));
  const middle = states.map((x, t) => add(x, optionalNorm(config, get("attn_post_norm"), attended[t]!)));
  return middle.map((x) => {
    const out = feedForward(self, rmsNorm(config, get("ffn_norm")!, x));
    return add(x, optionalNorm(config, get("ffn_post_norm"), out));
  });
}

function attention(self: Layer, inputs: Vector[]): Vector[] {
  const { config, layer, get } = self;
  const { headDim, numQHeads, numKvHeads } = config;
  const { slidingWindow } = config.layers[layer]!;
  const project = (role: "q" | "k" | "v", numHeads: number) =>
    inputs.map((x, position) => {
      const flat = multiply(get(`${role}_proj`)!, x, numHeads * headDim);
      const biased = addOptional(flat, get(`${role}_bias`));
      const heads = Array.from({ length: numHeads }, (_, h) => biased.slice(h * headDim, (h + 1) * headDim));
      if (role === "v") return heads;
      return heads.map((head) => rotate(self, optionalNorm(config, get(`${role}_norm`), head), position));
    });
  const q = project("q", numQHeads);
  const k = project("k", numKvHeads);
  const v = project("v", numKvHeads);
  self.observe(layer, k, v);
  return inputs.map((_, i) => {
    const out: Vector = [];
    for (let h = 0; h < numQHeads; h++) {
      const kvHead = Math.floor(h / (numQHeads / numKvHeads));
      const first = slidingWindow > 0 ? Math.max(0, i - slidingWindow + 1) : 0;
      const scores: Vector = [];
      for (let j = first; j <= i; j++) {
        const logit = dot(q[i]![h]!, k[j]![kvHead]!) * config.attnSoftmaxScale;
        scores.push(softcap(logit, config.attnLogitSoftcap));
      }
      const sinks = get("attn_sinks");
      const probabilities = softmax(sinks ? [...scores, sinks[h]!] : scores);
      for (let d = 0; d < headDim; d++) {
        out.push(scores.reduce((sum, _, j) => sum + probabilities[j]! * v[first + j]![kvHead]![d]!, 0));
      }
    }
    return addOptional(multiply(get("o_proj")!, out, config.hiddenSize), get("o_bias"));
  });
}

function feedForward({ config, get }: Layer, x: Vector): Vector {
  const gate = multiply(get("gate_proj")!, x, config.intermediateSize);
  const up = multiply(get("up_proj")!, x, config.intermediateSize);
  const activate = config.activation === "silu" ? silu : geluTanh;
  return multiply(get("down_proj")!, gate.map((g, i) => activate(g) * up[i]!), config.hiddenSize);
}

/** The pairs (x[i], x[i + n/2]) turn by position * invFreq[i]. */
function rotate({ config, invFreq, layer }: Layer, x: Vector, position: number): Vector {
  const half = config.headDim / 2;
  const factor = config.ropeAttnFactor[config.layers[layer]!.ropeTable];
  const out = [...x];
  for (let i = 0; i < half; i++) {
    const angle = Math.fround(position * invFreq[i]!);
    const cosine = Math.cos(angle) * factor;
    const sine = Math.sin(angle) * factor;
    out[i] = x[i]! * cosine - x[i + half]! * sine;
    out[i + half] = x[i + half]! * cosine + x[i]! * sine;
  }
  return out;
}

function rmsNorm(config: NativeModelConfig, weight: Float32Array, x: Vector): Vector {
  const scale = 1 / Math.sqrt(dot(x, x) / x.length + config.rmsNormEps);
  return x.map((value, i) => value * scale * (weight[i]! + config.normWeightOffset));
}

function optionalNorm(config: NativeModelConfig, weight: Float32Array | undefined, x: Vector): Vector {
  return weight ? rmsNorm(config, weight, x) : x;
}

function multiply(matrix: Float32Array, x: Vector, rows: number): Vector {
  return Array.from({ length: rows }, (_, r) => dot(matrix.subarray(r * x.length, (r + 1) * x.length), x));
}

function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}

const add = (a: Vector, b: ArrayLike<number>): Vector => a.map((x, i) => x + b[i]!);
const addOptional = (a: Vector, b: ArrayLike<number> | undefined): Vector => b ? add(a, b) : a;
const softcap = (x: number, cap: number): number => cap > 0 ? cap * Math.tanh(x / cap) : x;
const silu = (x: number): number => x / (1 + Math.exp(-x));
const geluTanh = (x: number): number => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));

function softmax(logits: Vector): Vector {
  const max = Math.max(...logits);
  const weights = logits.map((logit) => Math.exp(logit - max));
  const total = weights.reduce((a, b) => a + b);
  return weights.map((weight) => weight / total);
}
