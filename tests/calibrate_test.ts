import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { calibrate, parseCalibrate } from "../calibrate.ts";
import { calibratedMeans, calibratedScales } from "../engine/calibrate.ts";
import { KV_STATS_BINS, type KvHistograms, kvStatsBinStart } from "../ffi/kv_stats.ts";
import { LLM } from "../llm.ts";
import { kvScaleTable, readKvScaleFile } from "../models/kv_scales.ts";
import { openModel } from "../models/open_model.ts";
import { OptionError } from "../options.ts";
import { dataPath, withTempFolder } from "./models/_fixtures.ts";

const TINY = dataPath("tiny/base");
const MODEL = await openModel(TINY);
const TEXT = "The cache keeps a key and a value of every token. ".repeat(40);

const SHAPE = { numLayers: 3, numKvHeads: 2, headDim: 32 };

async function run(folder: string, ...args: string[]) {
  const data = `${folder}/data.txt`;
  Deno.writeTextFileSync(data, TEXT);
  const output = `${folder}/scales.safetensors`;
  const command = parseCalibrate([TINY, "--data", data, "--output", output, "--max-seq-len", "64", ...args]);
  let table = "";
  const labels = new Set<string>();
  await calibrate(command, { log: (text) => table = text, onProgress: ({ label }) => labels.add(label) });
  assert(labels.has("Calibrating"));
  return { table, output, scales: kvScaleTable(readKvScaleFile(output), SHAPE, "file") };
}

Deno.test("calibrate() writes scales that load, the same in every run, per tensor the largest head's", () =>
  withTempFolder(async (folder) => {
    const tensor = await run(folder);
    const bytes = Deno.readFileSync(tensor.output);
    assertEquals(tensor.scales.problems, []);
    assertEquals(tensor.scales.means.map((mean) => mean!.length), [64, 64, 64]);
    assertEquals(tensor.table.split("\n").length, 1 + SHAPE.numLayers);
    await run(folder);
    assertEquals(Deno.readFileSync(tensor.output), bytes);
    assertEquals(
      kvScaleTable(
        readKvScaleFile(`${folder}/scales.json`.replace("scales.json", "scales.safetensors")),
        SHAPE,
        "file",
      ),
      tensor.scales,
    );
    const head = await run(folder, "--granularity", "head");
    assertEquals(head.scales.layers.map((layer) => layer!.k.length), [2, 2, 2]);
    head.scales.layers.forEach((layer, i) => {
      assertEquals(Math.max(...layer!.k), tensor.scales.layers[i]!.k[0]);
      assertEquals(Math.max(...layer!.v), tensor.scales.layers[i]!.v[0]);
    });
  }));

Deno.test("calibrate() goes on from what an interrupted run counted", () =>
  withTempFolder(async (folder) => {
    const whole = await run(folder);
    const expected = Deno.readFileSync(whole.output);
    // Interrupted at the 16th sample, where the state is written.
    const command = parseCalibrate([
      TINY,
      "--data",
      `${folder}/data.txt`,
      "--output",
      whole.output,
      "--max-seq-len",
      "64",
    ]);
    Deno.removeSync(whole.output);
    let samples = 0;
    const stop = calibrate(command, {
      log: () => {},
      onProgress: ({ label }) => {
        if (label === "Calibrating" && ++samples === 17) throw new Error("interrupted");
      },
    });
    assertEquals(await stop.catch((error) => error.message), "interrupted");
    const partial = JSON.parse(Deno.readTextFileSync(`${whole.output}.partial`));
    assertEquals(partial.numSamples, 16);
    const numbers: number[] = [];
    await calibrate(command, {
      log: () => {},
      onProgress: ({ label, doneBytes }) => void (label === "Calibrating" && numbers.push(doneBytes)),
    });
    assertEquals(numbers[0], 17);
    assertEquals(Deno.readFileSync(whole.output), expected);
  }));

Deno.test("calibrate() saves a checkpoint that asks for an FP8 cache and brings the scales", () =>
  withTempFolder(async (folder) => {
    const saved = `${folder}/saved`;
    const { scales } = await run(folder, "--save-model", saved, "--granularity", "head");
    const model = await openModel(saved);
    assertEquals(model.kvCache.fp8AskedBy, "config.json's kv_cache_scheme");
    assertEquals(model.kvCache.scales.problems, []);
    assertEquals(
      model.kvCache.scales.layers.map((layer) => [layer!.k, layer!.v]),
      scales.layers.map((layer) => [layer!.k, layer!.v]),
    );
    await using llm = await LLM.load({ model: saved, kvCacheMemory: "16MiB", strictKvScales: true });
    assertEquals(llm.info.kvCacheDtype, "fp8_e4m3");
  }));

Deno.test("calibrate() saves what the loaders of compressed-tensors and vLLM ask for", () =>
  withTempFolder(async (folder) => {
    for (
      const [granularity, strategy, shape] of [["tensor", "tensor", [1]], ["head", "attn_head", [2, 1, 1]]] as const
    ) {
      const saved = `${folder}/${granularity}`;
      await run(folder, "--save-model", saved, "--granularity", granularity);
      const { quantization_config: config } = JSON.parse(Deno.readTextFileSync(`${saved}/config.json`));
      assertEquals([config.quant_method, config.format, config.config_groups], ["compressed-tensors", "dense", {}]);
      assertEquals(config.kv_cache_scheme, { num_bits: 8, type: "float", strategy, dynamic: false, symmetric: true });
      const bytes = Deno.readFileSync(`${saved}/model-kv-scales.safetensors`);
      const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
      const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
      const places = [0, 1, 2].flatMap((layer) =>
        ["k", "v"].map((kind) => `model.layers.${layer}.self_attn.${kind}_scale`)
      );
      assertEquals(Object.keys(header), places);
      for (const place of places) assertEquals([header[place].dtype, header[place].shape], ["BF16", [...shape]]);
      const { weight_map: files } = JSON.parse(Deno.readTextFileSync(`${saved}/model.safetensors.index.json`));
      for (const place of places) assertEquals(files[place], "model-kv-scales.safetensors");
      for (const file of new Set<string>(Object.values(files))) assert(Deno.statSync(`${saved}/${file}`).isFile, file);
    }
  }));

/** Statistics of one layer with one head: counts by magnitude. */
function statsOf(counts: [number, number][], absmax: number): KvHistograms {
  const histogram = new Float64Array(2 * KV_STATS_BINS);
  for (const [magnitude, count] of counts) {
    const bin = Array.from({ length: KV_STATS_BINS }, (_, i) => i).findLast((i) => kvStatsBinStart(i) <= magnitude)!;
    histogram[bin]! += count;
    histogram[KV_STATS_BINS + bin]! += count;
  }
  return { absmax: Float32Array.of(absmax, absmax), histogram, kSum: new Float64Array(1) };
}

Deno.test("calibratedScales() covers all values, all but an outlier, or with the least error", () => {
  const stats = statsOf([[1, 1e6], [448, 1]], 448);
  const scale = (method: "absmax" | "percentile" | "mse") =>
    calibratedScales(stats, { numLayers: 1, numKvHeads: 1 }, { granularity: "tensor", method })[0]!.k[0]!;
  assertEquals(scale("absmax"), 1);
  assertAlmostEquals(scale("percentile"), 1.125 / 448, 1e-5);
  // One value in a million is not worth the range, but its error is squared.
  assert(scale("mse") <= 1 && scale("mse") > scale("percentile"));
  const none = calibratedScales(statsOf([], 0), { numLayers: 1, numKvHeads: 1 }, {
    granularity: "head",
    method: "mse",
  });
  assertEquals([none[0]!.k, none[0]!.v], [[1], [1]]);
});

Deno.test("calibratedMeans() divides by the tokens, and makes none where a constant in K would be seen", () => {
  const [count, headDim] = [4, 2];
  const histogram = new Float64Array(2 * 2 * KV_STATS_BINS);
  for (const row of [0, 1]) histogram[row * KV_STATS_BINS + 200] = count * headDim;
  const stats = { absmax: new Float32Array(4), histogram, kSum: Float64Array.of(8, -2, 1e-3, 0) };
  const config = { ...MODEL.config, numLayers: 1, numKvHeads: 2, headDim };
  const of = (change: Partial<typeof config>, tensors = MODEL.tensors) =>
    calibratedMeans(stats, { config: { ...config, ...change }, tensors });
  const [mean] = of({})!;
  assertEquals([mean![0], mean![1], mean![3]], [2, -0.5, 0]);
  // Rounded to 8 bits of mantissa, as it is written.
  assertAlmostEquals(mean![2]! / 2.5e-4, 1, 2 ** -8);
  assertEquals(of({ attnLogitSoftcap: 50 }), null);
  assertEquals(of({}, [{ ...MODEL.tensors[0]!, role: "attn_sinks" }]), null);
});

Deno.test("parseCalibrate() names what it cannot read", () => {
  assertThrows(() => parseCalibrate(["m"]), OptionError, "needs --data");
  assertThrows(() => parseCalibrate(["m", "--data", "x", "--method", "y"]), OptionError, "absmax, percentile, mse");
  assertThrows(() => parseCalibrate(["m", "--data", "x", "--samples", "0"]), OptionError, 'received "0"');
  assertThrows(() => parseCalibrate(["m", "--data", "x", "--sample", "3"]), OptionError, "Unknown option --sample");
});
