import { assertAlmostEquals, assertEquals, assertGreater } from "@std/assert";
import { KV_DTYPE } from "../../ffi/enums.ts";
import { KV_STATS_FIELDS, type KvStats } from "../../ffi/kv_stats.ts";
import { Library } from "../../ffi/library.ts";
import { hasOwnScales, KV_DTYPES, type KvDtype } from "./_kv.ts";
import { libraryPath, openLibrary } from "./_library.ts";
import { isRotated, packRow, rotate, unpackRow } from "./_own_scales.ts";
import { loadModel, makeRandomModel, openEngine, randomTokens, runStep } from "./_random_model.ts";
import { referenceLogits } from "./_reference_model.ts";

const library = new Library(libraryPath());
const codec = openLibrary(["octavo_quantize", "octavo_dequantize"]);
const HEAD_DIM = 32;
const model = makeRandomModel({
  config: {
    headDim: HEAD_DIM,
    attnSoftmaxScale: HEAD_DIM ** -0.5,
    invFreq: Float32Array.from({ length: HEAD_DIM }, (_, i) => 10_000 ** (-2 * (i % 16) / HEAD_DIM)),
  },
});
const { numLayers, numKvHeads, vocabSize } = model.config;
/** Prompts of 100 tokens in pages of 16, seven a prompt. */
const PROMPTS = Array.from({ length: 8 }, (_, i) => randomTokens(100, vocabSize, i));
const slotOf = (prompt: number, position: number) => prompt * 7 * 16 + position;

/** octavo.h says about one slot in 64, which ones is ours. */
const isSampled = (slot: number) => Math.imul(slot, 2654435769) >>> 26 === 0;

/** What is read back of a row stored with a scale. */
function stored(kvDtype: KvDtype, part: "k" | "v", row: Float32Array<ArrayBuffer>, scale: number): ArrayLike<number> {
  if (hasOwnScales(kvDtype)) {
    const values = unpackRow(codec, kvDtype, part, packRow(codec, kvDtype, part, row), HEAD_DIM);
    return isRotated(kvDtype) ? rotate(values) : values;
  }
  const codes = new Uint8Array(4 * HEAD_DIM);
  const values = new Float32Array(HEAD_DIM);
  codec.check(codec.symbols.octavo_quantize(KV_DTYPE[kvDtype], row, HEAD_DIM, scale, codes));
  codec.check(codec.symbols.octavo_dequantize(KV_DTYPE[kvDtype], codes, HEAD_DIM, scale, values));
  return values;
}

/** One row of the statistics. */
function rowOf({ stats }: KvStats, layer: number, part: number, head: number) {
  const at = ((layer * 2 + part) * numKvHeads + head) * KV_STATS_FIELDS;
  const [absmax, numSaturated, squareSum, errorSum] = stats.subarray(at, at + KV_STATS_FIELDS);
  return { absmax: absmax!, numSaturated: numSaturated!, squareSum: squareSum!, errorSum: errorSum! };
}

/** Layer 0's K and V by part and head: rows with their slots. */
const ROWS = [0, 1].map(() =>
  Array.from({ length: numKvHeads }, () => [] as { slot: number; row: Float32Array<ArrayBuffer> }[])
);
PROMPTS.forEach((tokens, prompt) =>
  referenceLogits(model.config, model.weights, tokens, (layer, k, v) => {
    if (layer > 0) return;
    [k, v].forEach((rows, part) =>
      rows.forEach((heads, position) =>
        heads.forEach((row, head) =>
          ROWS[part]![head]!.push({ slot: slotOf(prompt, position), row: Float32Array.from(row) })
        )
      )
    );
  })
);

function countedBy(kvDtype: KvDtype, kvScales?: Float32Array): KvStats {
  using native = loadModel(library, model);
  using engine = openEngine(native, { kvDtype, kvStats: "errors", ...kvScales === undefined ? {} : { kvScales } });
  assertEquals(engine.kvStats().numTokens, 0);
  PROMPTS.forEach((tokens, prompt) => {
    const pages = Array.from({ length: 7 }, (_, i) => prompt * 7 + i);
    // A chunk with threads, one without, a decode.
    runStep(engine, [{ tokens: tokens.slice(0, 90), pages, sample: 0 }]);
    runStep(engine, [{ tokens: tokens.slice(90, 99), cached: 90, pages }]);
    runStep(engine, [{ tokens: tokens.slice(99), cached: 99, pages }]);
  });
  return engine.kvStats();
}

for (const kvDtype of KV_DTYPES) {
  Deno.test(`NativeEngine.kvStats() measures what a ${kvDtype} cache does to K and V`, () => {
    // Static FP8: K's scale lets the largest saturate, V's does not.
    const largest = ROWS.map((heads) => Math.max(...heads.flat().map(({ row }) => Math.max(...row.map(Math.abs)))));
    const scales = kvDtype.startsWith("fp8_e") ? [largest[0]! / 448 / (kvDtype === "fp8_e4m3" ? 2 : 256), 1] : [1, 1];
    const kvScales = new Float32Array(numLayers * 2 * numKvHeads).map((_, i) =>
      scales[Math.floor(i / numKvHeads) % 2]!
    );
    const counted = countedBy(kvDtype, kvDtype.startsWith("fp8_e") ? kvScales : undefined);
    assertEquals(counted.numTokens, 800);
    const limit = kvDtype === "fp8_e4m3" ? 448 : kvDtype === "fp8_e5m2" ? 57344 : Infinity;
    ROWS.forEach((heads, part) =>
      heads.forEach((rows, head) => {
        const scale = Math.fround(scales[part]!);
        const { absmax, numSaturated, squareSum, errorSum } = rowOf(counted, 0, part, head);
        const magnitudes = rows.flatMap(({ row }) => [...row].map(Math.abs));
        assertAlmostEquals(absmax / Math.max(...magnitudes), 1, 1e-5);
        const beyond = magnitudes.filter((magnitude) => magnitude > limit * scale).length;
        // Values at the limit may fall on either side of it.
        assertAlmostEquals(numSaturated, beyond, 2);
        assertEquals(beyond > 0, part === 0 && kvDtype.startsWith("fp8_e"));
        const sampled = rows.filter(({ slot }) => isSampled(slot));
        assertGreater(sampled.length, 5);
        let [squares, errors] = [0, 0];
        for (const { row } of sampled) {
          const back = stored(kvDtype, part === 0 ? "k" : "v", row, scale);
          row.forEach((x, i) => {
            squares += x * x;
            errors += (back[i]! - x) ** 2;
          });
        }
        assertAlmostEquals(squareSum / squares, 1, 1e-4);
        assertAlmostEquals(errorSum / squares, errors / squares, 0.02 * errors / squares + 1e-12);
        assertEquals(errorSum > 0, kvDtype !== "float32");
      })
    );
    assertGreater(rowOf(counted, 1, 1, 1).absmax, 0);
  });
}

Deno.test("NativeEngine.kvStats() leaves the logits as they are, bit for bit", () => {
  using native = loadModel(library, model);
  using counting = openEngine(native, { kvDtype: "int8", kvStats: "errors" });
  using plain = openEngine(native, { kvDtype: "int8" });
  const step = [{ tokens: PROMPTS[0]!, pages: [0, 1, 2, 3, 4, 5, 6] }];
  assertEquals(runStep(counting, step), runStep(plain, step));
});
