import { assertEquals } from "@std/assert";
import { mixedStepRule, mixedStepTokens, stepSizes } from "../../engine/step_sizes.ts";

Deno.test("stepSizes() takes what is given, else what suits the device", () => {
  const none = { maxNumSeqs: null, maxNumBatchedTokens: null, numSpeculativeTokens: null };
  assertEquals(stepSizes(none, "cpu", 100), {
    maxNumSeqs: 16,
    maxNumBatchedTokens: 256,
    maxSamples: 48,
    numSpeculativeTokens: 4,
    maxLogitEdits: 16_384,
    maxTokenMasks: 16,
    tokenMaskWords: 4,
    maxScores: 64,
  });
  assertEquals(stepSizes(none, "cuda", 300_000), {
    maxNumSeqs: 256,
    maxNumBatchedTokens: 2048,
    maxSamples: 256,
    numSpeculativeTokens: 0,
    maxLogitEdits: 300_000,
    maxTokenMasks: 256,
    tokenMaskWords: 9375,
    maxScores: 1024,
  });
  // A step holds at least a token of each sequence.
  const many = stepSizes({ ...none, maxNumSeqs: 300, maxNumBatchedTokens: 8 }, "cpu", 100);
  assertEquals([many.maxNumSeqs, many.maxNumBatchedTokens], [300, 300]);
  assertEquals(stepSizes({ ...none, numSpeculativeTokens: 0 }, "cpu", 100).maxSamples, 16);
  assertEquals(stepSizes({ ...none, numSpeculativeTokens: 2 }, "cuda", 100).maxSamples, 272);
});

Deno.test("mixedStepTokens() grows with the decodes, and always has room for prompts", () => {
  assertEquals([1, 64, 65, 128, 256, 4096].map(mixedStepTokens), [512, 512, 520, 1024, 2048, 32_768]);
});

Deno.test("mixedStepRule() holds on a GPU where nobody has chosen the tokens of a step", () => {
  assertEquals(mixedStepRule({ maxNumBatchedTokens: null }, "cuda"), mixedStepTokens);
  assertEquals(mixedStepRule({ maxNumBatchedTokens: 2048 }, "cuda"), undefined);
  assertEquals(mixedStepRule({ maxNumBatchedTokens: null }, "cpu"), undefined);
});
