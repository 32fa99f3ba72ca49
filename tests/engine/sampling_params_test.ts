import { assertEquals, assertGreater, assertNotEquals, assertThrows } from "@std/assert";
import { RequestError } from "../../engine/errors.ts";
import { type SamplingOptions, samplingParams } from "../../engine/sampling_params.ts";

Deno.test("samplingParams() fills in defaults", () => {
  const { seed, ...params } = samplingParams();
  assertEquals(typeof seed, "bigint");
  assertEquals(params, {
    n: 1,
    maxTokens: 16,
    minTokens: 0,
    temperature: 1,
    topK: 0,
    topP: 1,
    minP: 0,
    repetitionPenalty: 1,
    presencePenalty: 0,
    frequencyPenalty: 0,
    logitBias: new Map(),
    stop: [],
    allowedTokenIds: null,
    choices: null,
    badWords: [],
    stopTokenIds: [],
    includeStopStrInOutput: false,
    ignoreEos: false,
    logprobs: null,
    promptLogprobs: null,
    speculate: true,
    prediction: null,
    skipSpecialTokens: true,
  });
});

Deno.test("samplingParams() lets options go before the model's defaults", () => {
  const defaults = { temperature: 0.6, topK: 20, topP: 0.9, minP: 0.1, repetitionPenalty: 1.1 };
  const params = samplingParams({ temperature: 0, topK: -1 }, defaults);
  assertEquals([params.temperature, params.topK, params.topP, params.minP, params.repetitionPenalty], [
    0,
    0,
    0.9,
    0.1,
    1.1,
  ]);
});

Deno.test("samplingParams() keeps values clear of what float rounds to zero", () => {
  const { temperature, topP } = samplingParams({ temperature: 1e-300, topP: 1e-300 });
  assertEquals(temperature, 0);
  assertGreater(Math.fround(topP), 0);
});

Deno.test("samplingParams() draws a seed, or takes one modulo 2^64", () => {
  assertNotEquals(samplingParams().seed, samplingParams().seed);
  assertEquals(samplingParams({ seed: 7 }).seed, 7n);
  assertEquals(samplingParams({ seed: -1 }).seed, 2n ** 64n - 1n);
  assertEquals(samplingParams({ seed: 2n ** 64n + 3n }).seed, 3n);
});

Deno.test("samplingParams() takes stop and logit_bias in their short and long forms", () => {
  assertEquals(samplingParams({ stop: "a" }).stop, ["a"]);
  assertEquals(samplingParams({ stop: ["a", "b", "a"] }).stop, ["a", "b"]);
  assertEquals(samplingParams({ logitBias: { "5": -100 } }).logitBias, new Map([[5, -100]]));
  assertEquals(samplingParams({ logitBias: new Map([[5, 1.5]]) }).logitBias, new Map([[5, 1.5]]));
});

// After llama.cpp CVE-2026-21869 and the n = 1,000,000 freeze of vLLM: every number has a range.
const refused: [SamplingOptions, string, string][] = [
  [{ n: 0 }, "n", "n must be an integer from 1 to 128, received 0"],
  [{ n: 1_000_000 }, "n", "received 1000000"],
  [{ maxTokens: 0 }, "max_tokens", "received 0"],
  [{ maxTokens: 1.5 }, "max_tokens", "received 1.5"],
  [{ maxTokens: 2 ** 31 }, "max_tokens", "received 2147483648"],
  [{ minTokens: 17 }, "min_tokens", "an integer from 0 to 16, received 17"],
  [{ temperature: -0.1 }, "temperature", "a number from 0 to 100, received -0.1"],
  [{ temperature: NaN }, "temperature", "received NaN"],
  [{ temperature: Infinity }, "temperature", "received Infinity"],
  [{ topK: -2 }, "top_k", "received -2"],
  [{ topP: 0 }, "top_p", "a number above 0 and at most 1, received 0"],
  [{ topP: 1.01 }, "top_p", "received 1.01"],
  [{ topP: NaN }, "top_p", "received NaN"],
  [{ minP: 2 }, "min_p", "received 2"],
  [{ repetitionPenalty: 0 }, "repetition_penalty", "a number from 0.01 to 100, received 0"],
  [{ repetitionPenalty: 1e-300 }, "repetition_penalty", "received 1e-300"],
  [{ presencePenalty: 2.1 }, "presence_penalty", "a number from -2 to 2, received 2.1"],
  [{ frequencyPenalty: -3 }, "frequency_penalty", "received -3"],
  [{ logitBias: { 5: 101 } }, "logit_bias", "received 101"],
  [{ logitBias: { x: 1 } }, "logit_bias", 'received "x"'],
  [{ logitBias: { "": 1 } }, "logit_bias", 'received ""'],
  [{ logitBias: { "-1": 1 } }, "logit_bias", 'received "-1"'],
  [{ logitBias: { 5: NaN } }, "logit_bias", "received NaN"],
  [{ seed: 0.5 }, "seed", "an integer, received 0.5"],
  [{ stop: [""] }, "stop", 'received ""'],
  [{ stop: "\ud83d" }, "stop", "well-formed"],
  [{ stop: "x".repeat(1025) }, "stop", "received 1025"],
  [{ stop: Array.from({ length: 65 }, String) }, "stop", "at most 64 strings, received 65"],
  [{ allowedTokenIds: [] }, "allowed_token_ids", "one token id or more"],
  [{ allowedTokenIds: [1.5] }, "allowed_token_ids", "received 1.5"],
  [{ badWords: [[]] }, "bad_words", "received 0"],
  [{ badWords: [[1, -1]] }, "bad_words", "received -1"],
  [{ badWords: Array.from({ length: 1025 }, () => [1]) }, "bad_words", "received 1025"],
  [{ stopTokenIds: [-1] }, "stop_token_ids", "received -1"],
  [{ stopTokenIds: Array.from({ length: 65 }, (_, id) => id) }, "stop_token_ids", "received 65"],
  [{ logprobs: -1 }, "logprobs", "received -1"],
];

for (const [options, param, message] of refused) {
  Deno.test(`samplingParams() refuses ${param} when it is ${Deno.inspect(Object.values(options)[0]).slice(0, 30)}`, () => {
    const error = assertThrows(() => samplingParams(options), RequestError, message);
    assertEquals(error.param, param);
  });
}
