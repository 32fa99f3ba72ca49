/** Each row of the catalogue of other engines' faults with KV scales that loading can have is a test here. */

import { assertEquals, assertThrows } from "@std/assert";
import { ModelFileError } from "../../models/errors.ts";
import { kvScalePlace } from "../../models/kv_scale_names.ts";
import { kvScaleTable, readKvScaleFile } from "../../models/kv_scales.ts";
import { fp8KvCacheAskedBy } from "../../models/quantization_config.ts";
import { withTempFolder } from "./_fixtures.ts";
import { f32, openKvCheckpoint, type Tensors, writeSafetensors } from "./_kv_checkpoint.ts";

const SHAPE = { numLayers: 2, numKvHeads: 3, headDim: 2 };

/** A table from values by the end of a name in layer 0 and 1. */
function table(...layers: Record<string, number[]>[]) {
  const entries = layers.flatMap((names, layer) =>
    Object.entries(names).map(([name, values]) => ({ name: `model.layers.${layer}.self_attn.${name}`, values }))
  );
  return kvScaleTable(entries, SHAPE, "checkpoint");
}

Deno.test("kvScalePlace() knows the names that quantisers write", () => {
  const kinds = {
    "self_attn.k_scale": "k",
    "self_attn.v_scale": "v",
    "self_attn.attn.k_scale": "k",
    "attn.v_scale": "v",
    "mixer.k_scale": "k",
    "self_attn.kv_scale": "kv",
    "self_attn.attn.kv_scale": "kv",
    "self_attn.k_proj.output_scale": "k",
    "self_attn.v_proj.output_scale": "v",
    "self_attn.k_proj.k_scale": "k",
    "self_attn.v_proj.v_scale": "v",
    "self_attn.qkv_proj.k_scale": "k",
    "self_attn.qkv_proj.v_scale": "v",
    "self_attn.qkv_proj.output_scale": "kv",
    "attention.kv_cache_scaling_factor": "kv",
    "self_attn.k_zero_point": "k_zero_point",
    "self_attn.v_zero_point": "v_zero_point",
    "self_attn.k_mean": "k_mean",
    "self_attn.q_scale": "unused",
    "self_attn.q_proj.output_scale": "unused",
    "self_attn.q_zero_point": "unused",
    "self_attn.prob_output_scale": "unused",
  };
  for (const [name, kind] of Object.entries(kinds)) {
    assertEquals(kvScalePlace(`model.layers.12.${name}`), { layer: 12, kind } as ReturnType<typeof kvScalePlace>, name);
  }
  assertEquals(kvScalePlace("transformer.layers.0.attention.kv_cache_scaling_factor")?.kind, "kv");
  for (
    const name of ["k_proj.weight_scale", "k_proj.input_scale", "k_proj.weight", "o_proj.output_scale", "k_norm.weight"]
  ) {
    assertEquals(kvScalePlace(`model.layers.0.self_attn.${name}`), null, name);
  }
});

Deno.test("kvScaleTable() takes one scale, or one a head", () => {
  const { layers, problems } = table({ k_scale: [0.5], v_scale: [2] }, { k_scale: [1, 2, 3], v_scale: [0.25] });
  assertEquals(problems, []);
  assertEquals(layers, [
    { k: [0.5], v: [2], granularity: "tensor", source: "checkpoint" },
    { k: [1, 2, 3], v: [0.25], granularity: "head", source: "checkpoint" },
  ]);
});

Deno.test("kvScaleTable() takes K's mean, a vector a head, and says what is wrong with one", () => {
  const { layers, means, names, problems } = table({ k_mean: [1, 2, 3, 4, 5, -6] });
  assertEquals([layers, problems], [[null, null], []]);
  assertEquals(means, [Float32Array.of(1, 2, 3, 4, 5, -6), null]);
  assertEquals(names, [["model.layers.0.self_attn.k_mean"], []]);
  const bad = table({ k_mean: [1, 2] }, { k_mean: [0, 0, 0, 0, NaN, 0] });
  assertEquals(bad.means, [null, null]);
  assertEquals(bad.problems, [
    "layer 0: model.layers.0.self_attn.k_mean must have 3 x 2 values, found 2",
    "layer 1: model.layers.1.self_attn.k_mean must be finite, found NaN",
  ]);
});

Deno.test("kvScaleTable() uses a single old kv_scale for K and V", () => {
  const { layers, problems } = table({ kv_scale: [0.5] }, { kv_scale: [0.25], v_scale: [2] });
  assertEquals(problems, []);
  assertEquals(layers.map((layer) => [layer!.k, layer!.v]), [[[0.5], [0.5]], [[0.25], [2]]]);
});

Deno.test("kvScaleTable() refuses zero, negative, infinite, subnormal scales and NaN, naming the layer", () => {
  for (const bad of [0, -0.5, Infinity, NaN, 1.2e-39]) {
    const { layers, problems } = table({ k_scale: [0.5], v_scale: [0.5] }, { k_scale: [bad], v_scale: [2] });
    assertEquals(layers[1], { k: [1], v: [2], granularity: "tensor", source: "checkpoint" });
    assertEquals(problems, [
      `layer 1: model.layers.1.self_attn.k_scale must be finite and above 0, found ${bad}`,
      "layer 1: has no usable k_scale, 1 is used",
    ]);
  }
  // One bad head makes the whole scale unusable.
  assertEquals(table({ k_scale: [1, NaN, 1], v_scale: [1, 1, 1] }, { kv_scale: [1] }).layers[0]!.k, [1]);
});

Deno.test("kvScaleTable() names layers without scales, wrong shapes, strange layers and contradictions", () => {
  assertEquals(table({ kv_scale: [0.5] }).problems, ["layer 1: has no usable scale, 1 is used"]);
  assertEquals(table({ kv_scale: [0.5, 0.5] }, { kv_scale: [0.5] }).problems, [
    "layer 0: model.layers.0.self_attn.kv_scale must have 1 or 3 values, found 2",
    "layer 0: has no usable scale, 1 is used",
  ]);
  assertEquals(table({ kv_scale: [1] }, { kv_scale: [1] }, { kv_scale: [1] }).problems, [
    "model.layers.2.self_attn.kv_scale is of no layer: the model has layers 0 to 1",
  ]);
  const twice = table({ k_scale: [0.5], "k_proj.k_scale": [0.25], v_scale: [1] }, { kv_scale: [1] });
  assertEquals(twice.problems, [
    "layer 0: model.layers.0.self_attn.k_proj.k_scale differs from model.layers.0.self_attn.k_scale, which is used",
  ]);
  assertEquals(table({ kv_scale: [1], k_zero_point: [3] }, { kv_scale: [1] }).problems, [
    "layer 0: model.layers.0.self_attn.k_zero_point must be 0, found 3",
  ]);
  assertEquals(kvScaleTable([{ name: "layers.0.scale", values: [1] }], SHAPE, "file").problems, [
    "layers.0.scale is not known as a KV scale's name",
  ]);
  assertEquals(table().layers, [null, null]);
  assertEquals(table().problems, []);
});

Deno.test("openModel() reads the KV scales of LLM Compressor's checkpoints", () =>
  withTempFolder(async (folder) => {
    const tensor = await openKvCheckpoint(folder, "kv_tensor");
    assertEquals(tensor.kvCache.fp8AskedBy, "config.json's kv_cache_scheme");
    assertEquals(tensor.kvCache.scales.problems, []);
    const [first] = tensor.kvCache.scales.layers;
    assertEquals([first!.k.length, first!.granularity, first!.source], [1, "tensor", "checkpoint"]);
    const head = await openKvCheckpoint(folder, "kv_head");
    assertEquals(head.kvCache.scales.layers.map((layer) => [layer!.k.length, layer!.v.length]), [[2, 2], [2, 2], [
      2,
      2,
    ]]);
    // Its q_scale is uninitialised memory, and no fault of the K and V scales.
    const attention = await openKvCheckpoint(folder, "attention");
    assertEquals(attention.kvCache.scales.problems, []);
    assertEquals(attention.kvCache.fp8AskedBy, "config.json's kv_cache_scheme");
  }));

Deno.test("openModel() reads KV scales in F32, F16 and BF16, in shapes [], [1] and [heads, 1, 1]", () =>
  withTempFolder(async (folder) => {
    const half: Tensors[string] = { dtype: "F16", shape: [2, 1, 1], bytes: Uint8Array.of(0x00, 0x3c, 0x00, 0x38) };
    const brain: Tensors[string] = { dtype: "BF16", shape: [1], bytes: Uint8Array.of(0xcd, 0x3d) };
    const tensors = {
      "model.layers.0.self_attn.k_scale": half,
      "model.layers.0.self_attn.v_scale": brain,
      "model.layers.1.self_attn.qkv_proj.k_scale": f32([0.5], []),
      "model.layers.1.self_attn.qkv_proj.v_scale": f32([0.25]),
      "model.layers.2.self_attn.kv_scale": f32([3, 4], [2, 1, 1]),
    };
    const { kvCache } = await openKvCheckpoint(folder, "kv_tensor", { tensors });
    assertEquals(kvCache.scales.problems, []);
    assertEquals(kvCache.scales.layers.map((layer) => [layer!.k, layer!.v]), [
      [[1, 0.5], [0.10009765625]],
      [[0.5], [0.25]],
      [[3, 4], [3, 4]],
    ]);
  }));

Deno.test("fp8KvCacheAskedBy() knows compressed-tensors, ModelOpt, Quark and AutoFP8", () =>
  withTempFolder((folder) => {
    const asks = (config: Record<string, unknown>) => fp8KvCacheAskedBy(folder, { quantization_config: config });
    const scheme = { num_bits: 8, type: "float", strategy: "tensor", dynamic: false, symmetric: true };
    const inConfig = (key: string) => `config.json's ${key}`;
    assertEquals(asks({ quant_method: "compressed-tensors", kv_cache_scheme: scheme }), inConfig("kv_cache_scheme"));
    assertEquals(asks({ kv_cache_scheme: { ...scheme, strategy: "attn_head" } }), inConfig("kv_cache_scheme"));
    assertEquals(
      asks({ kv_cache_scheme: { num_bits: 8, type: "float", dynamic: false } }),
      inConfig("kv_cache_scheme"),
    );
    assertEquals(asks({ quant_method: "fp8", kv_cache_scheme: "static" }), inConfig("kv_cache_scheme"));
    assertEquals(asks({ quant_method: "modelopt", kv_cache_quant_algo: "FP8" }), inConfig("kv_cache_quant_algo"));
    assertEquals(asks({ quantization: { kv_cache_quant_algo: "FP8" } }), inConfig("kv_cache_quant_algo"));
    assertEquals(asks({ quant_method: "quark", export: { kv_cache_group: ["*k_proj"] } }), inConfig("kv_cache_group"));
    // Weights alone, other formats, dynamic scales: not this cache.
    assertEquals(asks({ quant_method: "compressed-tensors", kv_cache_scheme: null }), null);
    assertEquals(asks({ kv_cache_scheme: { ...scheme, type: "int" } }), null);
    assertEquals(asks({ kv_cache_scheme: { ...scheme, dynamic: true } }), null);
    assertEquals(asks({ quant_method: "modelopt", kv_cache_quant_algo: "NVFP4" }), null);
    assertEquals(asks({ quant_method: "quark", export: { kv_cache_group: [] } }), null);
    assertEquals(fp8KvCacheAskedBy(folder, {}), null);
    // ModelOpt's own file counts where config.json says nothing.
    const beside = { quantization: { quant_algo: "FP8", kv_cache_quant_algo: "FP8" } };
    Deno.writeTextFileSync(`${folder}/hf_quant_config.json`, JSON.stringify(beside));
    assertEquals(fp8KvCacheAskedBy(folder, {}), "hf_quant_config.json's kv_cache_quant_algo");
    assertEquals(asks({ quant_method: "modelopt", kv_cache_quant_algo: "NVFP4" }), null);
  }));

Deno.test("readKvScaleFile() reads safetensors and both kinds of JSON alike", () =>
  withTempFolder((folder) => {
    const name = "model.layers.0.self_attn.k_scale";
    writeSafetensors(`${folder}/a.safetensors`, { [name]: f32([0.5, 0.25]) });
    assertEquals(readKvScaleFile(`${folder}/a.safetensors`), [{ name, values: [0.5, 0.25] }]);
    const json = (content: unknown) => {
      Deno.writeTextFileSync(`${folder}/a.json`, JSON.stringify(content));
      return readKvScaleFile(`${folder}/a.json`);
    };
    assertEquals(json({ scales: { [name]: [0.5, 0.25] } }), [{ name, values: [0.5, 0.25] }]);
    assertEquals(json({ [name]: 0.5 }), [{ name, values: [0.5] }]);
    assertEquals(json({ [name]: null }), [{ name, values: [NaN] }]);
    const legacy = { kv_cache: { dtype: "float8_e4m3fn", scaling_factor: { 0: { 0: 0.5, 1: 0.25 } } } };
    assertEquals(kvScaleTable(json(legacy), SHAPE, "file").layers.map((layer) => layer!.v), [[0.5], [0.25]]);
    assertThrows(() => json({ [name]: "0.5" }), ModelFileError, "must be a number or a list of numbers");
    assertThrows(() => json({ kv_cache: { scaling_factor: { 0: {}, 1: {} } } }), ModelFileError, "must have one rank");
  }));
