import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { KV_STATS_BINS, kvStatsBinStart } from "../../ffi/kv_stats.ts";
import { Library } from "../../ffi/library.ts";
import { libraryPath } from "./_library.ts";
import { loadModel, makeRandomModel, openEngine, randomTokens, runStep } from "./_random_model.ts";
import { referenceLogits } from "./_reference_model.ts";

Deno.test("NativeEngine.kvHistograms() counts K after RoPE and V of every layer and head, over steps", () => {
  const model = makeRandomModel({ roles: [] });
  const { numLayers, numKvHeads, headDim, vocabSize } = model.config;
  const prompt = randomTokens(37, vocabSize, 5);
  using library = new Library(libraryPath());
  using native = loadModel(library, model);
  using engine = openEngine(native, { kvStats: "histograms" });
  assertEquals(engine.kvHistograms().absmax, new Float32Array(numLayers * 2 * numKvHeads));
  runStep(engine, [{ tokens: prompt.slice(0, 20), pages: [0, 1, 2] }]);
  runStep(engine, [{ tokens: prompt.slice(20), cached: 20, pages: [0, 1, 2] }]);
  const { absmax, histogram } = engine.kvHistograms();
  referenceLogits(model.config, model.weights, prompt, (layer, k, v) => {
    for (const [kind, rows] of [[0, k], [1, v]] as const) {
      for (let head = 0; head < numKvHeads; head++) {
        const row = (layer * 2 + kind) * numKvHeads + head;
        const values = rows.flatMap((token) => [...token[head]!]).map(Math.abs);
        assertAlmostEquals(absmax[row]! / Math.max(...values), 1, 1e-3);
        const counts = histogram.subarray(row * KV_STATS_BINS, (row + 1) * KV_STATS_BINS);
        assertEquals(counts.reduce((sum, count) => sum + count), 37 * headDim);
        const last = counts.findLastIndex((count) => count > 0);
        assertEquals([kvStatsBinStart(last) <= absmax[row]!, absmax[row]! < kvStatsBinStart(last + 1)], [true, true]);
        // The reference's own median lies where the histogram's does.
        const median = values.toSorted((a, b) => a - b)[values.length >> 1]!;
        let below = 0;
        const bin = counts.findIndex((count) => (below += count) > values.length / 2);
        assertAlmostEquals(Math.log2(kvStatsBinStart(bin) / median), 0, 0.25);
      }
    }
  });
});

Deno.test("NativeEngine.kvHistograms() and kvStats() refuse what the engine does not count", () => {
  const model = makeRandomModel({ roles: [] });
  using library = new Library(libraryPath());
  using native = loadModel(library, model);
  using plain = openEngine(native);
  assertThrows(
    () => plain.kvHistograms(),
    Error,
    "kv_stats must be OCTAVO_KV_STATS_HISTOGRAMS for this, the engine has 0",
  );
  using counting = openEngine(native, { kvStats: "histograms" });
  assertThrows(() => counting.kvStats(), Error, "kv_stats must be OCTAVO_KV_STATS_ERRORS for this, the engine has 2");
});
