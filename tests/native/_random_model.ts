/**
 * Small random models: their values for the f64 reference, and the same as a file for the native library.
 *
 * @module
 */
import { type Library } from "../../ffi/library.ts";
import { NativeEngine, type NativeEngineConfig } from "../../ffi/native_engine.ts";
import { NativeModel, type NativeModelConfig, type NativeTensor } from "../../ffi/native_model.ts";
import type { StepBuffer } from "../../ffi/step_buffer.ts";
import type { Weights } from "./_reference_model.ts";
import { makeRandom } from "./_sampler.ts";
import { randomBlocks, WEIGHT_FORMATS } from "./_weights.ts";

type Role = NativeTensor["role"];
type FloatDtype = "F32" | "F16" | "BF16";
type Dtype = NativeTensor["dtype"];

/** What a random model has beyond Llama's tensors. */
export interface RandomModelOptions {
  readonly config?: Partial<NativeModelConfig>;
  /** Optional roles to add. */
  readonly roles?: readonly Role[];
  /** Of matrices. Block formats: vectors are F32; every matrix's columns must be whole blocks. */
  readonly dtype?: Dtype;
  /** Of v_proj and up_proj, where it is another. */
  readonly secondDtype?: Dtype;
  /** The file holds q and k with RoPE pairs side by side. */
  readonly interleaved?: boolean;
  /** An output head of its own. */
  readonly untied?: boolean;
  readonly seed?: number;
}

/** A random model: config, values as the native library should see them, and a file that holds them. */
export interface RandomModel {
  readonly config: NativeModelConfig;
  readonly weights: Weights;
  readonly tensors: readonly NativeTensor[];
  readonly bytes: Uint8Array<ArrayBuffer>;
}

const HEAD_DIM = 16;
const REQUIRED: readonly Role[] = [
  "attn_norm",
  "q_proj",
  "k_proj",
  "v_proj",
  "o_proj",
  "ffn_norm",
  "gate_proj",
  "up_proj",
  "down_proj",
];

/** Llama's shape with 2 layers, 4 q heads over 2 kv heads; every length odd enough to leave vector tails. */
const LLAMA: NativeModelConfig = {
  vocabSize: 101,
  hiddenSize: 72,
  intermediateSize: 88,
  numLayers: 2,
  numQHeads: 4,
  numKvHeads: 2,
  headDim: HEAD_DIM,
  maxModelLen: 256,
  activation: "silu",
  rmsNormEps: 1e-5,
  normWeightOffset: 0,
  embeddingScale: 1,
  attnSoftmaxScale: 1 / Math.sqrt(HEAD_DIM),
  attnLogitSoftcap: 0,
  finalLogitSoftcap: 0,
  layers: [{ slidingWindow: 0, ropeTable: 0 }, { slidingWindow: 0, ropeTable: 0 }],
  invFreq: Float32Array.from({ length: HEAD_DIM }, (_, i) => {
    const [base, pair] = i < HEAD_DIM / 2 ? [10_000, i] : [100, i - HEAD_DIM / 2];
    return base ** (-2 * pair / HEAD_DIM);
  }),
  ropeAttnFactor: [1, 1],
};

/** Rows and columns of a role's tensor. */
function shapeOf(config: NativeModelConfig, role: Role): [rows: number, cols: number] {
  const q = config.numQHeads * config.headDim;
  const kv = config.numKvHeads * config.headDim;
  const { hiddenSize: hidden, intermediateSize: inner } = config;
  const shapes: Record<Role, [number, number]> = {
    token_embedding: [config.vocabSize, hidden],
    output_norm: [1, hidden],
    lm_head: [config.vocabSize, hidden],
    rope_factors: [1, config.headDim / 2],
    attn_norm: [1, hidden],
    q_proj: [q, hidden],
    k_proj: [kv, hidden],
    v_proj: [kv, hidden],
    o_proj: [hidden, q],
    q_bias: [1, q],
    k_bias: [1, kv],
    v_bias: [1, kv],
    o_bias: [1, hidden],
    q_norm: [1, config.headDim],
    k_norm: [1, config.headDim],
    attn_post_norm: [1, hidden],
    ffn_norm: [1, hidden],
    gate_proj: [inner, hidden],
    up_proj: [inner, hidden],
    down_proj: [hidden, inner],
    ffn_post_norm: [1, hidden],
    attn_sinks: [1, config.numQHeads],
  };
  return shapes[role];
}

/** Makes a model from a seed. */
export function makeRandomModel(options: RandomModelOptions = {}): RandomModel {
  const config = { ...LLAMA, ...options.config };
  const random = makeRandom(options.seed ?? 1);
  const isModelRole = (role: Role) => role === "rope_factors";
  const places: [Role, number][] = [["token_embedding", -1], ["output_norm", -1]];
  if (options.untied) places.push(["lm_head", -1]);
  for (const role of options.roles ?? []) if (isModelRole(role)) places.push([role, -1]);
  for (let layer = 0; layer < config.numLayers; layer++) {
    for (const role of [...REQUIRED, ...options.roles ?? []]) if (!isModelRole(role)) places.push([role, layer]);
  }
  const weights = new Map<string, Float32Array>();
  const tensors: NativeTensor[] = [];
  const file: number[] = [0, 0, 0]; // so that tensors are not aligned
  for (const [role, layer] of places) {
    const [rows, cols] = shapeOf(config, role);
    const second = role === "v_proj" || role === "up_proj" ? options.secondDtype : undefined;
    const wanted = second ?? options.dtype ?? "F32";
    const dtype = rows === 1 && !isFloat(wanted) ? "F32" : wanted;
    const scale = rows === 1 ? 0.3 : 1.5 / Math.sqrt(cols);
    const center = role.endsWith("norm") ? 1 - config.normWeightOffset : role === "rope_factors" ? 1 : 0;
    const makeFloats = (dtype: FloatDtype) => {
      const values = Float32Array.from({ length: rows * cols }, () => center + scale * (random() * 2 - 1));
      round(values, dtype);
      return { values, stored: null };
    };
    const { values, stored: blocks } = isFloat(dtype)
      ? makeFloats(dtype)
      : randomBlocks(WEIGHT_FORMATS[dtype]!, { count: rows * cols, scale: scale / 2, random });
    weights.set(layer < 0 ? role : `${role}.${layer}`, values);
    const heads = /^[qk]_(proj|bias)$/.test(role) && options.interleaved
      ? (role[0] === "q" ? config.numQHeads : config.numKvHeads)
      : 0;
    const stored = blocks ??
      toBytes(heads > 0 ? interleave(values, heads, config.headDim) : values, dtype as FloatDtype);
    tensors.push({
      role,
      layer,
      dtype,
      file: 0,
      offsetBytes: file.length,
      sizeBytes: stored.length,
      rows,
      cols,
      interleavedHeads: heads,
    });
    for (const byte of stored) file.push(byte);
  }
  return { config, weights, tensors, bytes: Uint8Array.from(file) };
}

function isFloat(dtype: Dtype): dtype is FloatDtype {
  return dtype === "F32" || dtype === "F16" || dtype === "BF16";
}

/** Rounds values to what dtype can hold, exactly or towards zero. */
function round(values: Float32Array<ArrayBuffer>, dtype: FloatDtype): void {
  if (dtype === "F16") values.set(new Float16Array(values));
  if (dtype === "BF16") {
    const bits = new Uint32Array(values.buffer);
    bits.forEach((word, i) => bits[i] = word & 0xffff0000);
  }
}

function toBytes(values: Float32Array<ArrayBuffer>, dtype: FloatDtype): Uint8Array {
  if (dtype === "F32") return new Uint8Array(values.buffer);
  if (dtype === "F16") return new Uint8Array(new Float16Array(values).buffer);
  return new Uint8Array(new Uint16Array(values.buffer).filter((_, i) => i % 2 === 1).buffer);
}

/** Moves the rows of each head so that RoPE's pairs i, i + headDim/2 come to lie at 2i, 2i + 1. */
function interleave(values: Float32Array, heads: number, headDim: number): Float32Array<ArrayBuffer> {
  const rowLength = values.length / (heads * headDim);
  const out = new Float32Array(values.length);
  for (let row = 0; row < heads * headDim; row++) {
    const head = Math.floor(row / headDim);
    const i = row % headDim;
    const half = headDim / 2;
    const to = head * headDim + (i < half ? 2 * i : 2 * (i - half) + 1);
    out.set(values.subarray(row * rowLength, (row + 1) * rowLength), to * rowLength);
  }
  return out;
}

/** Loads a model into the library through a temporary file, which is gone afterwards. */
export function loadModel(library: Library, model: RandomModel, numThreads = 2): NativeModel {
  const path = Deno.makeTempFileSync({ prefix: "octavo-" });
  try {
    Deno.writeFileSync(path, model.bytes);
    const native = new NativeModel(library, model.config, { numThreads });
    native.addFile(path);
    for (const tensor of model.tensors) native.loadTensor(tensor);
    native.finish();
    return native;
  } finally {
    Deno.removeSync(path);
  }
}

/** Changes to {@linkcode openEngine}'s small limits. */
export type EngineSettings = Partial<NativeEngineConfig> & {
  readonly kvScales?: Float32Array;
  readonly kMean?: Float32Array;
};

/** An engine with small limits and f32 KV unless said. */
export function openEngine(model: NativeModel, settings: EngineSettings = {}): NativeEngine {
  return new NativeEngine(
    model,
    {
      kvDtype: "float32",
      pageSize: 16,
      numPages: 64,
      maxNumSeqs: 8,
      maxNumBatchedTokens: 128,
      maxPagesPerSeq: 16,
      maxLogprobs: 4,
      maxLogitEdits: 12,
      numThreads: 2,
      ...settings,
    },
    settings.kvScales ?? null,
    settings.kMean ?? null,
  );
}

/** One sequence's part of a step. */
export interface StepRow {
  /** New tokens. */
  readonly tokens: readonly number[];
  /** Tokens already in the pages. */
  readonly cached?: number;
  readonly pages: readonly number[];
  /** Tokens to sample; default 1. */
  readonly sample?: number;
  readonly temperature?: number;
  readonly seed?: number;
  readonly numLogprobs?: number;
  readonly kvIndex?: number;
}

/** Writes a step's input. */
export function fillStep(buffer: StepBuffer, rows: readonly StepRow[]): void {
  buffer.header.fill(0);
  buffer.editBegin.fill(0);
  buffer.header[0] = rows.length;
  let numTokens = 0;
  rows.forEach((row, s) => {
    buffer.tokens.set(row.tokens, numTokens);
    numTokens += row.tokens.length;
    buffer.queryLen[s] = row.tokens.length;
    buffer.seqLen[s] = (row.cached ?? 0) + row.tokens.length;
    buffer.pageTable.set(row.pages, s * buffer.maxPagesPerSeq);
    buffer.sample[s] = row.sample ?? 1;
    buffer.temperature[s] = row.temperature ?? 0;
    buffer.topK[s] = 0;
    buffer.topP[s] = 1;
    buffer.minP[s] = 0;
    buffer.repetitionPenalty[s] = 1;
    buffer.presencePenalty[s] = 0;
    buffer.frequencyPenalty[s] = 0;
    buffer.seed[2 * s] = row.seed ?? 0;
    buffer.seed[2 * s + 1] = 0;
    buffer.sampleIndex[s] = 0;
    buffer.numLogprobs[s] = row.numLogprobs ?? -1;
    buffer.kvIndex[s] = row.kvIndex ?? 0;
  });
  buffer.header[1] = numTokens;
}

/** Runs a step; returns the logits of its rows. */
export function runStep(engine: NativeEngine, rows: readonly StepRow[]): Float32Array[] {
  fillStep(engine.buffer, rows);
  engine.step();
  const numRows = rows.reduce((sum, row) => sum + (row.sample ?? 1), 0);
  return Array.from({ length: numRows }, (_, row) => engine.logits(row));
}

/** Tokens that are the same in every run. */
export function randomTokens(length: number, vocabSize: number, seed: number): number[] {
  const random = makeRandom(seed);
  return Array.from({ length }, () => Math.floor(random() * vocabSize));
}
