import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { Library } from "../../ffi/library.ts";
import { libraryPath } from "./_library.ts";
import { fillStep, loadModel, makeRandomModel, openEngine, randomTokens, runStep } from "./_random_model.ts";
import { referenceLogits } from "./_reference_model.ts";

const library = new Library(libraryPath());
const model = makeRandomModel({ roles: [] });
const prompt = randomTokens(37, model.config.vocabSize, 5);
const row = (tokens: readonly number[], pages: number[]) => [{ tokens, pages }];

Deno.test("octavo_step() with calculate_kv_scales sets each layer's scales from the first step", () => {
  using native = loadModel(library, model);
  using engine = openEngine(native, { kvDtype: "fp8_e4m3", calculateKvScales: true });
  assertEquals([...new Set(engine.kvScales())], [1]);
  const [logits] = runStep(engine, row(prompt, [0, 1, 2]));
  const scales = engine.kvScales();
  const heads = model.config.numKvHeads;
  referenceLogits(model.config, model.weights, prompt, (layer, k, v) => {
    for (const [kind, rows, divisor] of [[0, k, 200], [1, v, 100]] as const) {
      const largest = Math.max(...rows.flat(2).map(Math.abs));
      for (let head = 0; head < heads; head++) {
        const scale = scales[(layer * 2 + kind) * heads + head]!;
        // Beyond layer 0 the native values have seen a quantised cache.
        assertAlmostEquals(scale / (largest / divisor), 1, layer === 0 ? 1e-5 : 0.05);
      }
    }
  });

  // The same scales given beforehand: the same bits.
  using given = openEngine(native, { kvDtype: "fp8_e4m3", kvScales: scales });
  assertEquals(runStep(given, row(prompt, [0, 1, 2]))[0], logits);

  // Fixed from then on, whatever comes.
  runStep(engine, row(randomTokens(20, model.config.vocabSize, 6), [3, 4]));
  assertEquals(engine.kvScales(), scales);
});

Deno.test("octavo_engine_freeze_kv_scales() sets the scales from all steps' values, for good", () => {
  using native = loadModel(library, model);
  using engine = openEngine(native, { kvDtype: "fp8_e4m3", calculateKvScales: true });
  const prompts = [1, 2, 3].map((seed) => randomTokens(20 * seed, model.config.vocabSize, seed));
  const first = prompts.map((prompt, i) => {
    runStep(engine, row(prompt, [4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3]));
    return engine.kvScales();
  });
  // Steps after the first count, but change nothing before the end.
  assertEquals(first[2], first[0]);
  engine.freezeKvScales();
  const scales = engine.kvScales();
  assertEquals(scales.every((scale, i) => scale >= first[0]![i]!), true);
  assertEquals(scales.some((scale, i) => scale > first[0]![i]!), true);
  // Layer 0 has seen exact values: its scales are those of one step with all prompts.
  using whole = openEngine(native, { kvDtype: "fp8_e4m3", calculateKvScales: true });
  runStep(whole, prompts.map((tokens, i) => ({ tokens, pages: [4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3] })));
  const perLayer = 2 * model.config.numKvHeads;
  assertEquals(scales.slice(0, perLayer), whole.kvScales().slice(0, perLayer));
  // The whole pool is stored anew as if the scales had been given beforehand.
  using given = openEngine(native, { kvDtype: "fp8_e4m3", kvScales: scales });
  assertEquals(runStep(engine, row(prompt, [0, 1, 2])), runStep(given, row(prompt, [0, 1, 2])));
  runStep(engine, row(randomTokens(60, model.config.vocabSize, 9), [4, 5, 6, 7]));
  assertEquals(engine.kvScales(), scales);
  assertThrows(() => engine.freezeKvScales(), Error, "no KV scales are being calculated");
});

Deno.test("octavo_engine_freeze_kv_scales() refuses to set scales from nothing, and under a step", () => {
  using native = loadModel(library, model);
  using plain = openEngine(native, { kvDtype: "fp8_e4m3" });
  assertThrows(() => plain.freezeKvScales(), Error, "no KV scales are being calculated");
  using engine = openEngine(native, { kvDtype: "fp8_e4m3", calculateKvScales: true });
  assertThrows(() => engine.freezeKvScales(), Error, "before a step has stored anything");
  fillStep(engine.buffer, row(prompt, [0, 1, 2]));
  engine.submit(engine.buffer);
  assertThrows(() => engine.freezeKvScales(), Error, "under way");
  engine.finish(engine.buffer);
  engine.freezeKvScales();
});

Deno.test("octavo_step() with calculate_kv_scales takes no scale from infinite or missing numbers", () => {
  const broken = makeRandomModel({ roles: [] });
  // Token 7's embedding overflows K and V of every layer; the norm makes it NaN.
  const { hiddenSize } = broken.config;
  const bytes = new DataView(broken.bytes.buffer);
  const { offsetBytes } = broken.tensors.find(({ role }) => role === "token_embedding")!;
  for (let i = 0; i < hiddenSize; i++) bytes.setFloat32(offsetBytes + (7 * hiddenSize + i) * 4, Infinity, true);
  using native = loadModel(library, broken);
  using engine = openEngine(native, { kvDtype: "fp8_e4m3", calculateKvScales: true });
  const others = prompt.filter((token) => token !== 7);
  runStep(engine, [{ tokens: others, pages: [0, 1, 2] }, { tokens: [7], pages: [3] }]);
  engine.freezeKvScales();
  using alone = openEngine(native, { kvDtype: "fp8_e4m3", calculateKvScales: true });
  runStep(alone, row(others, [0, 1, 2]));
  assertEquals(engine.kvScales(), alone.kvScales());
});

Deno.test("octavo_engine_create() refuses calculate_kv_scales without FP8 and beside kv_scales", () => {
  using native = loadModel(library, model);
  const open = (settings: Parameters<typeof openEngine>[1]) => () => openEngine(native, settings);
  assertThrows(
    open({ kvDtype: "bfloat16", calculateKvScales: true }),
    Error,
    "needs kv_dtype fp8_e4m3 or fp8_e5m2, found 2",
  );
  const kvScales = new Float32Array(model.config.numLayers * 2 * model.config.numKvHeads).fill(1);
  assertThrows(open({ kvDtype: "fp8_e5m2", calculateKvScales: true, kvScales }), Error, "exclude each other");
});
