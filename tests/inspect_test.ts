import { assert, assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { inspectModel, type ModelReport } from "../engine/inspect_model.ts";
import { inspect, parseInspect } from "../inspect.ts";
import { openModel } from "../models/open_model.ts";
import { OptionError } from "../options.ts";
import { openKvCheckpoint } from "./models/_kv_checkpoint.ts";

const BASE = decodeURIComponent(new URL("data/tiny/base", import.meta.url).pathname);

async function printed(...args: string[]): Promise<string> {
  let text = "";
  await inspect(parseInspect(args), { log: (one) => text += one, onProgress: () => {} });
  return text;
}

async function withCheckpoint(name: string, body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "octavo-" });
  try {
    await openKvCheckpoint(folder, name);
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("inspect() says what the files hold and how many tokens fit", async () => {
  const report: ModelReport = JSON.parse(await printed(BASE, "--json", "--kv-cache-memory", "768000"));
  assertEquals([report.config.architecture, report.config.numLayers, report.config.headDim], ["llama", 3, 32]);
  assertEquals(report.weights.map(({ dtype }) => dtype), ["BF16"]);
  assertEquals([report.kvCache.dtype, report.kvCache.reason], ["bfloat16", "the model's own dtype"]);
  assertEquals([report.kvCache.scales, report.kvCache.warning], [[], null]);
  const of = (name: string) => report.dtypes.find(({ dtype }) => dtype === name)!;
  // K and V of 3 layers, 2 kv heads of 32.
  assertEquals([of("bfloat16").bytesPerToken, of("bfloat16").numTokens], [768, 992]);
  assertEquals([of("fp8_e4m3").bytesPerToken, of("fp8_e4m3").numTokens], [384, 2000]);
  assertEquals(of("int4").bytesPerToken, 3 * 2 * 2 * (16 + 2));
});

Deno.test("inspect() names the scales of a checkpoint and why auto chooses FP8", async () => {
  await withCheckpoint("kv_head", async (folder) => {
    const text = await printed(folder, "--kv-cache-memory", "1MiB");
    assertStringIncludes(text, "fp8_e4m3: asked for by config.json's kv_cache_scheme");
    assertStringIncludes(text, "of 3 layers, below");
    assert(/^2 .* head +checkpoint +model.layers.2.self_attn.k_scale, model.layers.2.self_attn.v_scale$/m.test(text));
    assertStringIncludes(text, "fp8_e4m3 *");
  });
});

Deno.test("inspect() has the scales of --kv-scales before the checkpoint's, and warns as a server would", async () => {
  await withCheckpoint("kv_tensor", async (folder) => {
    const path = `${folder}/own.json`;
    const mean = new Array(2 * 32).fill(0.5);
    const own = { "layers.1.self_attn.kv_scale": 0.5, "layers.0.self_attn.k_mean": mean };
    await Deno.writeTextFile(path, JSON.stringify({ scales: own }));
    const { kvCache }: ModelReport = JSON.parse(
      await printed(folder, "--json", "--kv-scales", path, "--kv-cache-memory", "1MiB"),
    );
    assertEquals(kvCache.scales.map(({ scales }) => scales.source), ["checkpoint", "file", "checkpoint"]);
    assertEquals(kvCache.scales[1]!.names, ["layers.1.self_attn.kv_scale"]);
    assertEquals(kvCache.numKMeans, 1);
    assertStringIncludes(kvCache.warning!, "layer 0: has no usable scale");
  });
});

Deno.test("inspectModel() counts with skipped layers and asks the device for what a server would take", async () => {
  const options = { ...parseInspect([]), model: await openModel(BASE) };
  const skipped = await inspectModel({ ...options, kvCacheDtype: "fp8", kvCacheDtypeSkipLayers: [0, 2] });
  assertEquals(skipped.kvCache.skippedLayers, [0, 2]);
  assertEquals(skipped.dtypes.find(({ dtype }) => dtype === "fp8_e4m3")!.bytesPerToken, 128 + 2 * 256);
  assert(skipped.memory!.bytes > 0);
  assertStringIncludes(skipped.memory!.reckoning, "free");
});

Deno.test("parseInspect() and inspect() say what they cannot take", async () => {
  assertThrows(() => parseInspect(["--page-size", "8"]), OptionError, 'expected 16, 32 or 64, received "8"');
  assertThrows(() => parseInspect(["--port", "1"]), OptionError, "octavo inspect --help lists all");
  await assertRejects(() => printed(BASE, "--kv-cache-dtype-skip-layers", "3"), RangeError, "layers 0 to 2");
});
