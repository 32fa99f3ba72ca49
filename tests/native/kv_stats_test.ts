import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { CountingEngine, KV_STATS_BINS, kvStatsBinStart } from "../../ffi/kv_stats.ts";
import { Library } from "../../ffi/library.ts";
import { libraryPath } from "./_library.ts";
import { loadModel, makeRandomModel, randomTokens, runStep } from "./_random_model.ts";
import { referenceLogits } from "./_reference_model.ts";

const CONFIG = {
  kvDtype: "float32",
  pageSize: 16,
  numPages: 8,
  maxNumSeqs: 1,
  maxNumBatchedTokens: 64,
  maxPagesPerSeq: 8,
  maxLogprobs: 0,
  maxLogitEdits: 0,
  numThreads: 2,
} as const;

Deno.test("CountingEngine counts K after RoPE and V of every layer and head, over steps", () => {
  const model = makeRandomModel({ roles: [] });
  const { numLayers, numKvHeads, headDim, vocabSize } = model.config;
  const prompt = randomTokens(37, vocabSize, 5);
  using library = new Library(libraryPath());
  using native = loadModel(library, model);
  using engine = new CountingEngine(native, CONFIG);
  assertEquals(engine.stats().absmax, new Float32Array(numLayers * 2 * numKvHeads));
  runStep(engine, [{ tokens: prompt.slice(0, 20), pages: [0, 1, 2] }]);
  runStep(engine, [{ tokens: prompt.slice(20), cached: 20, pages: [0, 1, 2] }]);
  const { absmax, histogram } = engine.stats();
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

Deno.test("CountingEngine can be closed twice and not used afterwards", () => {
  const model = makeRandomModel({ roles: [] });
  using library = new Library(libraryPath());
  using native = loadModel(library, model);
  const engine = new CountingEngine(native, CONFIG);
  engine.close();
  engine.close();
  assertThrows(() => engine.stats(), TypeError, "closed");
});
