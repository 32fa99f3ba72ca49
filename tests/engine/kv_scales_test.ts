import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import {
  chooseKvScales,
  describeKvScales,
  type KvScaleOptions,
  nativeKMean,
  nativeKvScales,
} from "../../engine/kv_scales.ts";
import type { KvScaleTable, LayerKvScales } from "../../models/types.ts";

const scales = (source: LayerKvScales["source"], k: number, v: number): LayerKvScales => ({
  k: [k],
  v: [v],
  granularity: "tensor",
  source,
});
const ONE = scales("default", 1, 1);
const OF_CHECKPOINT = scales("checkpoint", 0.5, 2);
const OF_FILE = scales("file", 0.25, 4);

const table = (layers: (LayerKvScales | null)[], problems: string[] = []): KvScaleTable => ({
  layers,
  means: layers.map(() => null),
  names: layers.map(() => []),
  problems,
});
const NO_MEANS = [null, null];

function choose(change: Partial<KvScaleOptions> & { found?: (LayerKvScales | null)[]; problems?: string[] } = {}) {
  const { found = [OF_CHECKPOINT, OF_CHECKPOINT], problems = [], ...rest } = change;
  return chooseKvScales({
    checkpoint: { fp8AskedBy: "config.json's kv_cache_scheme", scales: table(found, problems) },
    file: null,
    layerDtypes: ["fp8_e4m3", "fp8_e4m3"],
    calculate: false,
    strict: false,
    ...rest,
  });
}

Deno.test("chooseKvScales() takes the file's, then the checkpoint's, then 1", () => {
  assertEquals(choose(), { layers: [OF_CHECKPOINT, OF_CHECKPOINT], means: NO_MEANS, calculate: false, warning: null });
  const file = table([OF_FILE, null]);
  assertEquals(choose({ file }).layers, [OF_FILE, OF_CHECKPOINT]);
  assertEquals(choose({ file, found: [OF_CHECKPOINT, null] }).layers, [OF_FILE, ONE]);
});

Deno.test("chooseKvScales() gives none to layers of another dtype", () => {
  assertEquals(choose({ layerDtypes: ["fp8_e4m3", "bfloat16"] }).layers, [OF_CHECKPOINT, null]);
  assertEquals(choose({ layerDtypes: ["bfloat16", "int8"], strict: true }).layers, [null, null]);
  const file = table([OF_FILE, OF_FILE]);
  assertThrows(() => choose({ layerDtypes: ["int8", "int8"], file }), RangeError, "kv_scales needs kv_cache_dtype");
});

Deno.test("chooseKvScales() gives K's means to layers of rotated dtypes, the file's first", () => {
  const [a, b] = [Float32Array.of(1, 2), Float32Array.of(3, 4)];
  const checkpoint = { fp8AskedBy: null, scales: { ...table([null, null]), means: [a, a] } };
  const file = { ...table([OF_FILE, OF_FILE]), means: [b, null] };
  const { means, layers } = choose({ layerDtypes: ["int4", "int8"], checkpoint, file });
  assertEquals(means, [{ values: b, source: "file" }, { values: a, source: "checkpoint" }]);
  assertEquals(layers, [null, null]);
  assertEquals(choose({ layerDtypes: ["fp8_e4m3", "k8v4"], checkpoint, file }).means, [null, {
    values: a,
    source: "checkpoint",
  }]);
  assertEquals(nativeKMean(means, { numKvHeads: 2, headDim: 1 }), Float32Array.of(3, 4, 1, 2));
  assertEquals(nativeKMean(NO_MEANS, { numKvHeads: 2, headDim: 1 }), null);
  assertThrows(
    () => choose({ layerDtypes: ["int8_per_token_head", "bfloat16"], checkpoint, file }),
    RangeError,
    "int8, k8v4 or int4 where it has means of K, found int8_per_token_head, bfloat16",
  );
});

Deno.test("chooseKvScales() warns once of all problems, and throws under strict", () => {
  const problems = ["layer 0: k_scale is wrong", "layer 1: has no usable scale, 1 is used"];
  const found = [OF_CHECKPOINT, null];
  assertEquals(choose({ found, problems }).warning, `KV scales: ${problems.join("; ")}`);
  assertThrows(() => choose({ found, problems, strict: true }), RangeError, problems.join("; "));
  // A whole file hides the checkpoint's faults.
  const file = table([OF_FILE, OF_FILE]);
  assertEquals(choose({ found, problems, file, strict: true }).warning, null);
});

Deno.test("chooseKvScales() tells scales that are declared but absent from those nobody asked for", () => {
  const none = { found: [null, null] };
  assertEquals(
    choose(none).warning,
    "KV scales: config.json's kv_cache_scheme asks for an FP8 cache but no layer has usable scales, 1 is used",
  );
  const checkpoint = { fp8AskedBy: null, scales: table([null, null]) };
  assertEquals(choose({ checkpoint }), { layers: [ONE, ONE], means: NO_MEANS, calculate: false, warning: null });
  assertThrows(() => choose({ checkpoint, strict: true }), RangeError, "layers 0, 1 have none");
});

Deno.test("chooseKvScales() notices scales that are all exactly 1", () => {
  const found = [scales("checkpoint", 1, 1), scales("checkpoint", 1, 1)];
  assertEquals(choose({ found }).warning, "KV scales: all are exactly 1, as if never calibrated");
});

Deno.test("chooseKvScales() refuses E5M2 where scales exist, and only there", () => {
  const layerDtypes = ["fp8_e5m2", "fp8_e5m2"] as const;
  assertThrows(() => choose({ layerDtypes }), RangeError, "fp8_e5m2 cannot be used where the checkpoint brings scales");
  const checkpoint = { fp8AskedBy: null, scales: table([null, null]) };
  assertEquals(choose({ layerDtypes, checkpoint }).layers, [ONE, ONE]);
});

Deno.test("chooseKvScales() warns of E5M2's precision, and of no other dtype's", () => {
  const checkpoint = { fp8AskedBy: null, scales: table([null, null]) };
  const { warning } = choose({ layerDtypes: ["fp8_e5m2", "bfloat16"], checkpoint });
  assertStringIncludes(warning!, "fp8_e5m2 has half of fp8_e4m3's precision");
  assertEquals(choose({ checkpoint }).warning, null);
});

Deno.test("chooseKvScales() calculates only where no file brings scales", () => {
  assertEquals(choose({ found: [null, null], calculate: true }).calculate, true);
  const both = choose({ calculate: true });
  assertEquals([both.calculate, both.layers[0]], [false, OF_CHECKPOINT]);
  assertEquals(both.warning, "KV scales: those of the files are used, calculate_kv_scales has no effect");
});

Deno.test("nativeKvScales() spreads scales over heads, K and V apart", () => {
  const perHead: LayerKvScales = { k: [1, 2], v: [3, 4], granularity: "head", source: "file" };
  assertEquals(
    nativeKvScales([OF_CHECKPOINT, perHead, null], 2),
    Float32Array.of(0.5, 0.5, 2, 2, 1, 2, 3, 4, 1, 1, 1, 1),
  );
  assertEquals(nativeKvScales([ONE, null], 2), null);
});

Deno.test("describeKvScales() says where they come from and their range", () => {
  assertEquals(
    describeKvScales([OF_CHECKPOINT, OF_FILE, null]),
    "checkpoint (1 layers), file (1 layers), one a layer: K 0.250 to 0.500, V 2.00 to 4.00",
  );
  assertEquals(describeKvScales([null]), null);
});
