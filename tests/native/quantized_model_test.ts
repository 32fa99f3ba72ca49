/** Whole models in every block format: against the f64 reference, and bit for bit however their steps are cut. */
import { assert, assertEquals } from "@std/assert";
import { DTYPE } from "../../ffi/enums.ts";
import { Library } from "../../ffi/library.ts";
import type { NativeModelConfig } from "../../ffi/native_model.ts";
import { libraryPath } from "./_library.ts";
import { loadModel, makeRandomModel, openEngine, randomTokens, runStep } from "./_random_model.ts";
import { referenceLogits } from "./_reference_model.ts";

const library = new Library(libraryPath());

/** Columns of 256: one block of the widest formats. */
const CONFIG: Partial<NativeModelConfig> = { hiddenSize: 256, intermediateSize: 256, numQHeads: 16, numKvHeads: 2 };
const BLOCK_DTYPES = (Object.keys(DTYPE) as (keyof typeof DTYPE)[]).filter((dtype) => !/^B?F\d/.test(dtype));

for (const dtype of BLOCK_DTYPES) {
  // Of another format, so that Q, K and V are two products.
  const secondDtype = dtype === "Q8_0" ? "Q4_1" : "Q8_0";
  const model = makeRandomModel({ dtype, secondDtype, config: CONFIG });
  const tokens = randomTokens(53, model.config.vocabSize, 8);

  Deno.test(`octavo_step() computes the f64 reference's logits of a ${dtype} model`, () => {
    const expected = referenceLogits(model.config, model.weights, tokens).at(-1)!;
    using native = loadModel(library, model);
    using engine = openEngine(native);
    const [logits] = runStep(engine, [{ tokens, pages: [7, 3, 60, 0] }]);
    const largest = logits!.reduce((most, logit, i) => Math.max(most, Math.abs(logit - expected[i]!)), 0);
    const spread = Math.max(...expected) - Math.min(...expected);
    assert(spread > 1, `the reference's logits span only ${spread}`);
    assert(largest < 1e-3, `largest error ${largest}`);
  });

  Deno.test(`octavo_step() gives a ${dtype} model's logits bit for bit in any chunks, batch and threads`, () => {
    using native = loadModel(library, model);
    const { vocabSize } = model.config;
    const settings = { kvDtype: "fp8_e4m3", maxNumBatchedTokens: 256 } as const;
    using alone = openEngine(native, { ...settings, numThreads: 1 });
    const expected = runStep(alone, [{ tokens, pages: [0, 1, 2, 3] }]);
    for (const [chunk, numThreads, numMates] of [[1, 1, 0], [1, 3, 3], [7, 2, 1], [32, 5, 2], [53, 2, 3]] as const) {
      using engine = openEngine(native, { ...settings, numThreads });
      let logits: Float32Array[] = [];
      for (let cached = 0; cached < tokens.length; cached += chunk) {
        // Batch-mates come before it, with other lengths at every step.
        const mates = Array.from({ length: numMates }, (_, mate) => ({
          tokens: randomTokens(1 + (cached * 5 + mate * 11) % 40, vocabSize, cached + mate),
          pages: [20 + 3 * mate, 21 + 3 * mate, 22 + 3 * mate],
          sample: mate === 1 ? 1 : 0,
        }));
        const row = { tokens: tokens.slice(cached, cached + chunk), cached, pages: [63, 5, 40, 11] };
        logits = runStep(engine, [...mates, row]).slice(-1);
      }
      assertEquals(logits, expected, `chunks of ${chunk}, ${numThreads} threads, ${numMates} batch-mates`);
    }
  });
}
