/**
 * A model's settings from Hugging Face's config.json, in the spellings of transformers 4 (`rope_theta`, `rope_scaling`,
 * `torch_dtype`) and 5 (`rope_parameters`, `dtype`). Defaults of missing fields are those of transformers'
 * configuration classes.
 *
 * @module
 */

import { type Architecture, architectures } from "./architectures.ts";
import { limits, modelConfig, periodicWindows, stretchedLen } from "./config.ts";
import { Fields, isRecord } from "./fields.ts";
import { type RopeParameters, type RopeScaling, yarnAttnFactor } from "./rope.ts";
import type { ModelConfig } from "./types.ts";

/** What config.json says beyond the model's sizes. */
export interface HuggingFaceConfig {
  readonly config: ModelConfig;
  readonly architecture: Architecture;
  /** The output matrix is the token embedding. */
  readonly isTied: boolean;
}

/** A `model_type`: the architecture it stands for and the values of fields that config.json may leave out. */
interface ModelType {
  readonly architecture: string;
  readonly defaults: Readonly<Record<string, unknown>>;
}

const common = { rms_norm_eps: 1e-6, rope_theta: 10_000, tie_word_embeddings: false, hidden_act: "silu" };
const qwen = { ...common, use_sliding_window: false, sliding_window: 4096, max_window_layers: 28 };
const gemma2 = {
  rms_norm_eps: 1e-6,
  rope_theta: 10_000,
  tie_word_embeddings: true,
  hidden_activation: "gelu_pytorch_tanh",
  hidden_size: 2304,
  intermediate_size: 9216,
  num_hidden_layers: 26,
  num_attention_heads: 8,
  num_key_value_heads: 4,
  head_dim: 256,
  query_pre_attn_scalar: 256,
  sliding_window: 4096,
};

const modelTypes: Readonly<Record<string, ModelType>> = {
  llama: { architecture: "llama", defaults: common },
  mistral: { architecture: "mistral", defaults: { ...common, num_key_value_heads: 8, sliding_window: 4096 } },
  qwen2: { architecture: "qwen2", defaults: qwen },
  qwen3: { architecture: "qwen3", defaults: { ...qwen, head_dim: 128 } },
  gemma2: {
    architecture: "gemma2",
    defaults: {
      ...gemma2,
      vocab_size: 256_000,
      max_position_embeddings: 8192,
      attn_logit_softcapping: 50,
      final_logit_softcapping: 30,
    },
  },
  gemma3_text: {
    architecture: "gemma3",
    defaults: {
      ...gemma2,
      vocab_size: 262_208,
      max_position_embeddings: 131_072,
      rope_theta: 1_000_000,
      rope_local_base_freq: 10_000,
      sliding_window_pattern: 6,
    },
  },
};

/**
 * @param record Content of config.json.
 * @param storedDtype The weights' dtype, used where config.json names none.
 * @throws {ModelFileError} When the architecture is not known, a setting is missing or out of its range.
 */
export function huggingFaceConfig(
  file: string,
  record: Readonly<Record<string, unknown>>,
  storedDtype: ModelConfig["dtype"],
): HuggingFaceConfig {
  const outer = Fields.ofRecord(file, record);
  const inner = textRecord(outer, record);
  const { architecture: name, defaults } = modelTypeOf(inner.record, inner.fields);
  const fields = Fields.ofRecord(file, { ...defaults, ...inner.record }, inner.prefix);
  const architecture = architectures[name]!;
  checkSupported(fields, architecture);
  const numLayers = fields.integer("num_hidden_layers", limits.layers);
  const hiddenSize = fields.integer("hidden_size", limits.hidden);
  const numQHeads = fields.integer("num_attention_heads", limits.heads);
  const headDim = fields.integerOr("head_dim", hiddenSize / numQHeads, limits.headDim);
  const maxLen = fields.integer("max_position_embeddings", limits.length);
  const rope = ropeOf(fields, maxLen, name === "gemma3");
  const config = modelConfig({
    file,
    architecture,
    vocabSize: fields.integer("vocab_size", limits.vocab),
    hiddenSize,
    intermediateSize: fields.integer("intermediate_size", limits.intermediate),
    numQHeads,
    numKvHeads: fields.integerOr("num_key_value_heads", numQHeads, limits.heads),
    headDim,
    // Gemma 3's length is that after scaling.
    maxModelLen: name === "gemma3" ? maxLen : stretchedLen(maxLen, rope[0]),
    rmsNormEps: fields.number("rms_norm_eps", limits.epsilon),
    normWeightOffset: architecture.isGemma ? 1 : 0,
    queryScalar: architecture.isGemma ? fields.number("query_pre_attn_scalar", limits.scalar) : headDim,
    attnLogitSoftcap: fields.numberOr("attn_logit_softcapping", 0, limits.softcap),
    finalLogitSoftcap: fields.numberOr("final_logit_softcapping", 0, limits.softcap),
    windows: windowsOf(fields, architecture, numLayers),
    rope,
    dtype: dtypeOf(fields) ?? dtypeOf(outer) ?? storedDtype,
    fieldNames: { headDim: "head_dim", numKvHeads: "num_key_value_heads" },
  });
  // A multimodal config ties the whole model.
  const tied = inner.prefix !== "" && outer.has("tie_word_embeddings") ? outer : fields;
  return { config, architecture, isTied: tied.booleanOr("tie_word_embeddings", architecture.isGemma) };
}

/** The part that describes the language model: of a multimodal Gemma 3 its `text_config`. */
function textRecord(outer: Fields, record: Readonly<Record<string, unknown>>) {
  if (outer.stringOr("model_type", "") !== "gemma3") return { record, fields: outer, prefix: "" };
  const text = record["text_config"] ?? {};
  if (!isRecord(text)) return outer.fail("text_config", "must be an object", text);
  const prefix = "text_config.";
  return { record: { model_type: "gemma3_text", ...text }, fields: Fields.ofRecord(outer.file, text, prefix), prefix };
}

function modelTypeOf(record: Readonly<Record<string, unknown>>, fields: Fields): ModelType {
  const name = record["model_type"];
  if (typeof name === "string" && Object.hasOwn(modelTypes, name)) return modelTypes[name]!;
  return fields.fail("model_type", `must be one of ${Object.keys(modelTypes).join(", ")}, gemma3`, name);
}

function checkSupported(fields: Fields, architecture: Architecture): void {
  // Gemma's older files name plain "gelu" in hidden_act, which transformers does not read.
  const key = architecture.isGemma ? "hidden_activation" : "hidden_act";
  const wanted = architecture.isGemma ? "gelu_pytorch_tanh" : "silu";
  const activation = fields.stringOr(key, wanted);
  if (activation !== wanted) fields.fail(key, `must be ${wanted} for ${architecture.name}`, activation);
  const isBidirectional = fields.booleanOr("use_bidirectional_attention", false);
  if (isBidirectional) fields.fail("use_bidirectional_attention", "must be false", isBidirectional);
}

function windowsOf(fields: Fields, architecture: Architecture, numLayers: number): number[] {
  const window = fields.integerOr("sliding_window", 0, limits.length);
  const all = (value: number) => new Array<number>(numLayers).fill(value);
  const { name } = architecture;
  const isOff = name.startsWith("qwen") && !fields.booleanOr("use_sliding_window", false);
  if (name === "llama" || isOff) return all(0);
  const types = fields.stringsOr("layer_types", null);
  if (types !== null) {
    return types.length === numLayers
      ? types.map((type, i) => windowOf(fields, type, i, window))
      : fields.fail("layer_types", `must have ${numLayers} entries`, types.length);
  }
  if (name === "mistral") return all(window);
  if (name.startsWith("qwen")) {
    const first = fields.integer("max_window_layers", { min: 0, max: limits.layers.max });
    return all(window).fill(0, 0, first);
  }
  const patternKey = fields.firstOf("_sliding_window_pattern", "sliding_window_pattern");
  const every = patternKey === undefined ? architecture.fullLayerEvery : fields.integer(patternKey, limits.layers);
  return periodicWindows(numLayers, every, window);
}

function windowOf(fields: Fields, type: string, layer: number, window: number): number {
  if (type === "full_attention") return 0;
  if (type !== "sliding_attention") {
    return fields.fail(`layer_types[${layer}]`, "must be full_attention or sliding_attention", type);
  }
  return window > 0 ? window : fields.fail("sliding_window", "must be there for sliding_attention");
}

/** Of layers that see all keys, and of layers with a window; apart only in Gemma 3. */
function ropeOf(fields: Fields, maxLen: number, isGemma3: boolean): [RopeParameters, RopeParameters] {
  const parameters = fields.objectOr("rope_parameters");
  const whole = parameters?.objectOr("full_attention") ?? parameters ?? fields.objectOr("rope_scaling");
  const full = ropeParameters(fields, whole, "rope_theta", maxLen);
  if (!isGemma3) return [full, full];
  return [
    full,
    ropeParameters(fields, parameters?.objectOr("sliding_attention") ?? null, "rope_local_base_freq", maxLen),
  ];
}

/** @param rope The object that holds the scaling, and in transformers 5 the base too. */
function ropeParameters(fields: Fields, rope: Fields | null, thetaKey: string, maxLen: number): RopeParameters {
  const theta = rope?.numberOr("rope_theta", null, limits.theta) ?? fields.number(thetaKey, limits.theta);
  for (const where of [fields, rope]) {
    const part = where?.numberOr("partial_rotary_factor", 1, limits.factor) ?? 1;
    if (part !== 1) where!.fail("partial_rotary_factor", "must be 1", part);
  }
  return { theta, scaling: rope === null ? { type: "default" } : ropeScaling(rope, maxLen) };
}

function ropeScaling(rope: Fields, maxLen: number): RopeScaling {
  const type = rope.stringOr("rope_type", null) ?? rope.stringOr("type", "default");
  if (type === "default") return { type };
  const originalMaxLen = rope.integerOr("original_max_position_embeddings", maxLen, limits.length);
  switch (type) {
    case "linear":
      return { type, factor: rope.number("factor", limits.factor) };
    case "llama3":
      return {
        type,
        factor: rope.number("factor", limits.factor),
        lowFreqFactor: rope.number("low_freq_factor", limits.factor),
        highFreqFactor: rope.number("high_freq_factor", limits.factor),
        originalMaxLen,
      };
    case "yarn": {
      const factor = rope.numberOr("factor", maxLen / originalMaxLen, limits.factor);
      return {
        type,
        factor,
        originalMaxLen,
        attnFactor: rope.numberOr("attention_factor", null, limits.factor) ?? yarnFactorOf(rope, factor),
        betaFast: rope.numberOr("beta_fast", 32, limits.scalar),
        betaSlow: rope.numberOr("beta_slow", 1, limits.scalar),
        truncate: rope.booleanOr("truncate", true),
      };
    }
    default:
      return rope.fail("rope_type", "must be one of default, linear, llama3, yarn", type);
  }
}

/** With both mscale and mscale_all_dim: their quotient, as DeepSeek's code has it and transformers after it. */
function yarnFactorOf(rope: Fields, factor: number): number {
  const weight = rope.numberOr("mscale", 0, { min: 0, max: limits.factor.max });
  const weightAll = rope.numberOr("mscale_all_dim", 0, { min: 0, max: limits.factor.max });
  if (weight === 0 || weightAll === 0) return yarnAttnFactor(factor);
  return yarnAttnFactor(factor, weight) / yarnAttnFactor(factor, weightAll);
}

function dtypeOf(fields: Fields): ModelConfig["dtype"] | null {
  const key = fields.firstOf("dtype", "torch_dtype");
  if (key === undefined) return null;
  const dtype = fields.string(key).replace(/^torch\./, "");
  if (dtype === "bfloat16" || dtype === "float16" || dtype === "float32") return dtype;
  return fields.fail(key, "must be bfloat16, float16 or float32", dtype);
}
