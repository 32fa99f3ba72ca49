import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { Library } from "../../ffi/library.ts";
import { libraryPath } from "./_library.ts";
import { loadModel, makeRandomModel, openEngine, randomTokens, runStep } from "./_random_model.ts";
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
