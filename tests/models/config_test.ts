import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { ModelFileError } from "../../models/errors.ts";
import { parseGguf } from "../../models/gguf.ts";
import { ggufConfig } from "../../models/gguf_config.ts";
import { huggingFaceConfig } from "../../models/hf_config.ts";
import { checkWeightQuantization } from "../../models/quantization_config.ts";
import type { ModelConfig } from "../../models/types.ts";
import { type MetadataValue, tinyGguf, writeGguf } from "./_gguf_writer.ts";
import { readJson } from "./_fixtures.ts";

const sizes = {
  vocab_size: 100,
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 6,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 16,
  max_position_embeddings: 1024,
};

function configOf(record: Record<string, unknown>): ModelConfig {
  return huggingFaceConfig("config.json", { ...sizes, ...record }, "bfloat16").config;
}

function ggufConfigOf(architecture: string, changes: Record<string, MetadataValue>): ModelConfig {
  const bytes = writeGguf(tinyGguf(architecture, changes));
  const read = (offset: number, into: Uint8Array) => into.set(bytes.subarray(offset, offset + into.length));
  return ggufConfig(parseGguf({ path: "test.gguf", sizeBytes: bytes.length, read }));
}

const windows = (config: ModelConfig) => config.layers.map((layer) => layer.slidingWindow);
const tables = (config: ModelConfig) => config.layers.map((layer) => layer.ropeTable);
/** Inverse frequencies of one table. */
const table = ({ invFreq, headDim }: ModelConfig, index: number) =>
  invFreq.slice(index * headDim / 2, (index + 1) * headDim / 2);

interface RopeGolden {
  readonly rope_type: string;
  readonly head_dim: number;
  readonly rope_theta: number;
  readonly inv_freq: readonly number[];
  readonly attention_factor: number;
  readonly [parameter: string]: unknown;
}

Deno.test("huggingFaceConfig() scales RoPE as transformers does, in both spellings", () => {
  for (const golden of readJson<RopeGolden[]>("rope_golden.json")) {
    const { head_dim, inv_freq, attention_factor, rope_theta, ...rope } = golden;
    const base = { model_type: "llama", head_dim, max_position_embeddings: 131_072 };
    const old = configOf({ ...base, rope_theta, rope_scaling: rope });
    const older = configOf({ ...base, rope_theta, rope_scaling: { ...rope, rope_type: null, type: rope.rope_type } });
    const current = configOf({ ...base, rope_parameters: { ...rope, rope_theta } });
    for (const config of [old, older, current]) {
      table(config, 0).forEach((freq, i) => assertAlmostEquals(freq / inv_freq[i]!, 1, 5e-6, `${rope.rope_type} ${i}`));
      assertAlmostEquals(config.ropeAttnFactor[0], attention_factor, 1e-6);
      assertEquals(config.invFreq, old.invFreq);
    }
  }
});

Deno.test("ggufConfig() scales RoPE by YaRN and linearly", () => {
  const [, , yarn] = readJson<RopeGolden[]>("rope_golden.json");
  const keys = { "llama.attention.key_length": { u32: 128 }, "llama.attention.value_length": { u32: 128 } };
  const config = ggufConfigOf("llama", {
    ...keys,
    "llama.context_length": { u32: 32_768 },
    "llama.rope.freq_base": { f32: 1e6 },
    "llama.rope.scaling.type": "yarn",
    "llama.rope.scaling.factor": { f32: 4 },
    "llama.rope.scaling.original_context_length": { u32: 32_768 },
  });
  table(config, 0).forEach((freq, i) => assertAlmostEquals(freq / yarn!.inv_freq[i]!, 1, 5e-6));
  assertAlmostEquals(config.ropeAttnFactor[0], yarn!.attention_factor, 1e-6);
  assertEquals(config.maxModelLen, 131_072);
  const linear = ggufConfigOf("llama", {
    "llama.rope.scaling.type": "linear",
    "llama.rope.scaling.factor": { f32: 2 },
  });
  assertEquals(linear.invFreq[0], 0.5);
  const lengthOf = (contextLength: number, factor: number) =>
    ggufConfigOf("llama", {
      "llama.context_length": { u32: contextLength },
      "llama.rope.scaling.type": "linear",
      "llama.rope.scaling.factor": { f32: factor },
    }).maxModelLen;
  assertEquals([lengthOf(2 ** 30, 1000), lengthOf(1, 0.5)], [2 ** 30, 1]);
  assertEquals(linear.maxModelLen, 128);
});

Deno.test("huggingFaceConfig() reads Llama's settings and defaults", () => {
  const config = configOf({ model_type: "llama", torch_dtype: "float16", rms_norm_eps: 1e-5, head_dim: null });
  assertEquals({ ...config, invFreq: null, layers: null }, {
    architecture: "llama",
    vocabSize: 100,
    hiddenSize: 64,
    intermediateSize: 96,
    numLayers: 6,
    numQHeads: 4,
    numKvHeads: 2,
    headDim: 16,
    maxModelLen: 1024,
    activation: "silu",
    rmsNormEps: 1e-5,
    normWeightOffset: 0,
    embeddingScale: 1,
    attnSoftmaxScale: 0.25,
    attnLogitSoftcap: 0,
    finalLogitSoftcap: 0,
    ropeAttnFactor: [1, 1],
    dtype: "float16",
    invFreq: null,
    layers: null,
  });
  assertEquals(windows(configOf({ model_type: "llama", sliding_window: 8 })), [0, 0, 0, 0, 0, 0]);
  assertEquals(configOf({ model_type: "llama" }).dtype, "bfloat16");
  assertEquals(configOf({ model_type: "llama", dtype: "float32" }).dtype, "float32");
  assertEquals(configOf({ model_type: "llama", num_key_value_heads: null }).numKvHeads, 4);
});

Deno.test("huggingFaceConfig() gives Mistral and Qwen the windows they ask for", () => {
  assertEquals(windows(configOf({ model_type: "mistral", sliding_window: 8 })), [8, 8, 8, 8, 8, 8]);
  assertEquals(windows(configOf({ model_type: "mistral", sliding_window: null })), [0, 0, 0, 0, 0, 0]);
  assertEquals(windows(configOf({ model_type: "mistral" })).at(0), 4096);
  for (const model_type of ["qwen2", "qwen3"]) {
    const window = { model_type, sliding_window: 8, max_window_layers: 4 };
    assertEquals(windows(configOf(window)), [0, 0, 0, 0, 0, 0]);
    assertEquals(windows(configOf({ ...window, use_sliding_window: true })), [0, 0, 0, 0, 8, 8]);
    const layer_types = ["full_attention", "sliding_attention", ...new Array(4).fill("full_attention")];
    assertEquals(windows(configOf({ ...window, use_sliding_window: true, layer_types })), [0, 8, 0, 0, 0, 0]);
  }
});

Deno.test("huggingFaceConfig() reads Gemma 2", () => {
  const config = configOf({ model_type: "gemma2", hidden_act: "gelu", sliding_window: 8, query_pre_attn_scalar: 64 });
  assertEquals(windows(config), [8, 0, 8, 0, 8, 0]);
  assertEquals(tables(config), [0, 0, 0, 0, 0, 0]);
  assertEquals([config.normWeightOffset, config.embeddingScale, config.attnSoftmaxScale], [1, 8, 0.125]);
  assertEquals([config.attnLogitSoftcap, config.finalLogitSoftcap, config.activation], [50, 30, "gelu_tanh"]);
});

Deno.test("huggingFaceConfig() reads Gemma 3 in all its spellings", () => {
  const old = configOf({
    model_type: "gemma3_text",
    sliding_window: 8,
    rope_theta: 1e6,
    rope_local_base_freq: 1e4,
    rope_scaling: { rope_type: "linear", factor: 8 },
  });
  assertEquals(windows(old), [8, 8, 8, 8, 8, 0]);
  assertEquals(tables(old), [1, 1, 1, 1, 1, 0]);
  assertEquals(table(old, 0)[0], 0.125);
  assertEquals(table(old, 1)[0], 1);
  assertAlmostEquals(table(old, 0)[1]! * 8, 1e6 ** (-1 / 8), 1e-6);
  assertAlmostEquals(table(old, 1)[1]!, 1e4 ** (-1 / 8), 1e-6);
  assertEquals([old.finalLogitSoftcap, old.attnSoftmaxScale, old.maxModelLen], [0, 1 / 16, 1024]);
  const current = configOf({
    model_type: "gemma3_text",
    sliding_window: 8,
    layer_types: ["sliding_attention", "full_attention", ...new Array(4).fill("sliding_attention")],
    rope_parameters: {
      full_attention: { rope_type: "linear", factor: 8, rope_theta: 1e6 },
      sliding_attention: { rope_type: "default", rope_theta: 1e4 },
    },
  });
  assertEquals(windows(current), [8, 0, 8, 8, 8, 8]);
  assertEquals(current.invFreq, old.invFreq);
  const text = { ...sizes, sliding_window: 8, rope_scaling: { rope_type: "linear", factor: 8 } };
  const multimodal = huggingFaceConfig(
    "config.json",
    { model_type: "gemma3", text_config: text, dtype: "float32" },
    "bfloat16",
  );
  assertEquals(multimodal.config.invFreq, old.invFreq);
  assertEquals([multimodal.config.dtype, multimodal.isTied], ["float32", true]);
  // The published 4B's text_config names six fields.
  const sparse = { hidden_size: 2560, intermediate_size: 10_240, num_hidden_layers: 34, model_type: "gemma3_text" };
  const large = huggingFaceConfig("config.json", { model_type: "gemma3", text_config: sparse }, "bfloat16").config;
  assertEquals([large.numQHeads, large.numKvHeads, large.headDim, large.vocabSize], [8, 4, 256, 262_208]);
  assertEquals(large.maxModelLen, 131_072);
});

Deno.test("ggufConfig() reads Gemma 2 and 3", () => {
  const gemma2 = ggufConfigOf("gemma2", { "gemma2.attention.sliding_window": { u32: 8 } });
  assertEquals(windows(gemma2), [8, 0]);
  assertEquals([gemma2.normWeightOffset, gemma2.attnLogitSoftcap, gemma2.finalLogitSoftcap], [0, 50, 30]);
  assertAlmostEquals(gemma2.embeddingScale, Math.sqrt(32), 1e-12);
  const gemma3 = ggufConfigOf("gemma3", {
    "gemma3.attention.sliding_window": { u32: 8 },
    "gemma3.rope.freq_base": { f32: 1e6 },
    "gemma3.rope.scaling.type": "linear",
    "gemma3.rope.scaling.factor": { f32: 8 },
  });
  assertEquals(windows(gemma3), [8, 8]);
  assertEquals(tables(gemma3), [1, 1]);
  assertEquals([table(gemma3, 0)[0], table(gemma3, 1)[0]], [0.125, 1]);
  assertAlmostEquals(table(gemma3, 1)[1]!, 1e4 ** (-1 / 4), 1e-6);
  assertEquals(gemma3.maxModelLen, 64);
});

Deno.test("huggingFaceConfig() names file, field and value when a setting cannot be", () => {
  const fails = (record: Record<string, unknown>, field: string, part: string) => {
    const error = assertThrows(() => configOf({ model_type: "llama", ...record }), ModelFileError, part);
    assertEquals([error.file, error.field], ["config.json", field]);
  };
  fails(
    { model_type: "mamba" },
    "model_type",
    "must be one of llama, mistral, qwen2, qwen3, gemma2, gemma3_text, gemma3",
  );
  fails({ model_type: undefined }, "model_type", "must be one of");
  fails({ hidden_size: undefined }, "hidden_size", "must be there");
  fails({ hidden_size: "64" }, "hidden_size", 'must be an integer from 1 to 1048576, found "64"');
  fails({ num_hidden_layers: 1e9 }, "num_hidden_layers", "found 1000000000");
  fails({ vocab_size: -1 }, "vocab_size", "found -1");
  fails({ head_dim: 20 }, "head_dim", "must be a multiple of 8, at most 256, found 20");
  fails({ head_dim: 512 }, "head_dim", "must be an integer from 8 to 256, found 512");
  fails({ head_dim: null, hidden_size: 65 }, "head_dim", "must be a multiple of 8");
  fails({ num_key_value_heads: 3 }, "num_key_value_heads", "must divide the 4 query heads, found 3");
  fails({ rms_norm_eps: 0 }, "rms_norm_eps", "must be a number from");
  fails({ hidden_act: "gelu" }, "hidden_act", 'must be silu for llama, found "gelu"');
  fails(
    { rope_scaling: { rope_type: "dynamic", factor: 2 } },
    "rope_scaling.rope_type",
    "must be one of default, linear",
  );
  fails({ rope_scaling: { rope_type: "llama3", factor: 2 } }, "rope_scaling.low_freq_factor", "must be there");
  fails({ rope_scaling: "linear" }, "rope_scaling", "must be an object");
  fails({ partial_rotary_factor: 0.5 }, "partial_rotary_factor", "must be 1, found 0.5");
  fails({ torch_dtype: "int8" }, "torch_dtype", "must be bfloat16, float16 or float32");
  fails({ model_type: "gemma2", layer_types: ["full_attention"] }, "layer_types", "must have 6 entries, found 1");
  fails({ model_type: "gemma2", layer_types: new Array(6).fill("x") }, "layer_types[0]", 'found "x"');
  const nested = { model_type: "gemma3", text_config: { ...sizes, head_dim: 7 } };
  const error = assertThrows(() => huggingFaceConfig("config.json", nested, "bfloat16"), ModelFileError);
  assertEquals(error.field, "text_config.head_dim");
});

Deno.test("checkWeightQuantization() lets FP8 weights and KV-cache schemes pass and names other methods", () => {
  const check = (quantization_config: unknown) => checkWeightQuantization("config.json", { quantization_config });
  const scheme = { num_bits: 8, type: "float", strategy: "tensor" };
  const group = (weights: unknown) => ({
    quant_method: "compressed-tensors",
    config_groups: { group_0: { targets: ["Linear"], weights } },
  });
  check(undefined);
  check({ quant_method: "compressed-tensors", config_groups: {}, kv_cache_scheme: scheme });
  check({
    quant_method: "compressed-tensors",
    config_groups: { group_0: { weights: null, input_activations: scheme } },
  });
  check({ quant_method: "modelopt", kv_cache_quant_algo: "FP8", quant_algo: null });
  check(group(scheme));
  check(group({ ...scheme, strategy: "channel", symmetric: true }));
  check({ quant_method: "fp8", activation_scheme: "static" });
  check({ quant_method: "fbgemm_fp8" });
  check({ quant_method: "modelopt", quant_algo: "FP8" });
  const refused: [unknown, string][] = [
    [group({ ...scheme, num_bits: 4 }), "config_groups.group_0.weights"],
    [group({ ...scheme, type: "int" }), "config_groups.group_0.weights"],
    [group({ ...scheme, strategy: "block" }), "config_groups.group_0.weights"],
    [group({ ...scheme, symmetric: false }), "config_groups.group_0.weights"],
    [{ quant_method: "gptq", bits: 4 }, "quant_method"],
    [{ quant_method: "awq" }, "quant_method"],
    [{ quant_method: "fp8", weight_block_size: [128, 128] }, "weight_block_size"],
    [{ quant_method: "modelopt", quant_algo: "NVFP4" }, "quant_algo"],
    [{}, "quant_method"],
  ];
  for (const [config, field] of refused) {
    assertEquals(assertThrows(() => check(config), ModelFileError).field, `quantization_config.${field}`);
  }
});
