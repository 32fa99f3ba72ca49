import { assertEquals, assertThrows } from "@std/assert";
import { checkRequest, kvIndexOf, type RequestLimits } from "../../engine/admission.ts";
import { RequestError } from "../../engine/errors.ts";
import { type SamplingOptions, samplingParams } from "../../engine/sampling_params.ts";

const LIMITS: RequestLimits = {
  maxModelLen: 100,
  vocabSize: 50,
  numEosTokenIds: 2,
  kvKinds: [{ kvDtype: "bfloat16", pageSize: 16 }, { kvDtype: "fp8_e4m3", pageSize: 32 }],
  numPages: 7,
  maxNumSeqs: 2,
  maxLogprobs: 5,
  maxLogitEdits: 30,
};

function check(promptTokenIds: number[], options: SamplingOptions = {}, limits: Partial<RequestLimits> = {}) {
  checkRequest({ id: "a", promptTokenIds, sampling: samplingParams(options) }, { ...LIMITS, ...limits });
}

Deno.test("checkRequest() counts pages of the request's KV dtype and refuses one that is not enabled", () => {
  const request = (kvCacheDtype?: string) => ({
    id: "a",
    promptTokenIds: Array.from({ length: 60 }, () => 1),
    sampling: samplingParams({ maxTokens: 30 }),
    ...kvCacheDtype === undefined ? {} : { kvCacheDtype },
  });
  const limits = { ...LIMITS, numPages: 3 };
  for (const dtype of ["fp8", "fp8_e4m3"]) checkRequest(request(dtype), limits);
  assertEquals([undefined, "auto", "bfloat16", "fp8"].map((dtype) => kvIndexOf(request(dtype), limits)), [0, 0, 0, 1]);
  for (const dtype of [undefined, "auto", "bfloat16"]) {
    const error = assertThrows(() => checkRequest(request(dtype), limits), RequestError);
    assertEquals(error.message.includes("needs 6 pages of 16 tokens"), true, error.message);
  }
  const error = assertThrows(() => checkRequest(request("int4"), limits), RequestError);
  const message = 'kv_cache_dtype must be one that this server enables, bfloat16, fp8_e4m3; received "int4"';
  assertEquals([error.message, error.param], [message, "kv_cache_dtype"]);
});

function refusal(...args: Parameters<typeof check>): [string, string | null, string | null] {
  const error = assertThrows(() => check(...args), RequestError);
  return [error.message, error.param, error.code];
}

const tokens = (length: number) => Array.from({ length }, (_, i) => i % 50);

// After ollama#4967: a prompt that is too long is refused with both numbers, never cut.
Deno.test("checkRequest() refuses prompt + max_tokens beyond the model's length", () => {
  check(tokens(84));
  assertEquals(refusal(tokens(85)), [
    "This model's maximum context length is 100 tokens. However, you requested 101 tokens (85 in the prompt, 16 for " +
    "the completion)",
    "max_tokens",
    "context_length_exceeded",
  ]);
  assertEquals(refusal(tokens(100), { maxTokens: 1 }).slice(1), ["prompt", "context_length_exceeded"]);
});

Deno.test("checkRequest() refuses what the whole cache cannot hold", () => {
  // 49 + 16 tokens, of which the last never enters the cache: 4 pages.
  check(tokens(49), {}, { numPages: 4 });
  assertEquals(
    refusal(tokens(50), {}, { numPages: 4 })[0],
    "The request needs 5 pages of 16 tokens for its 50 prompt " +
      "tokens and 16 tokens of completion, but the KV cache has 4",
  );
  assertEquals(refusal(tokens(50), {}, { numPages: 4 })[2], "context_length_exceeded");
});

Deno.test("checkRequest() refuses an empty prompt and token ids out of range", () => {
  assertEquals(refusal([]).slice(0, 2), ["The prompt has no tokens", "prompt"]);
  for (const id of [50, -1, 1.5, NaN]) {
    assertEquals(refusal([1, id])[0], `The prompt's token ids must be integers from 0 to 49, received ${id}`);
  }
  assertEquals(refusal([1], { logitBias: { 50: 1 } })[1], "logit_bias");
  assertEquals(refusal([1], { stopTokenIds: [50] })[1], "stop_token_ids");
});

// After n = 1,000,000 froze a loop that made all sequences before it looked.
Deno.test("checkRequest() bounds n, logprobs and logit edits by what the engine has", () => {
  check([1], { n: 16 });
  assertEquals(refusal([1], { n: 17 })[0], "n must be at most 16 on this server, received 17");
  const stopTokenIds = tokens(48);
  check([1], { stopTokenIds }, { maxLogitEdits: 50 });
  assertEquals(
    refusal([1], { stopTokenIds, minTokens: 1 })[0],
    "min_tokens and bad_words would ban all 50 tokens: too many stop_token_ids",
  );
  check([1], { choices: [[0, 49]] });
  for (
    const [options, message] of [
      [{ choices: [[50]] }, "guided_choice must name token ids from 0 to 49, received 50"],
      [{ choices: [] }, "An output cannot be kept to choices when there are none"],
      [{ choices: [[1]], allowedTokenIds: [1] }, "An output cannot be kept to choices with allowed_token_ids"],
      [{ choices: [[1]], badWords: [[1]] }, "An output cannot be kept to choices with bad_words"],
      [{ choices: [[1]], minTokens: 1 }, "An output cannot be kept to choices with min_tokens"],
      [{ choices: [[1]], ignoreEos: true }, "An output cannot be kept to choices without a token that ends it"],
    ] as const
  ) {
    assertEquals(refusal([1], options).slice(0, 2), [message, "guided_choice"]);
  }
  check([1], { prediction: [0, 49] });
  assertEquals(refusal([1], { prediction: [3, 50] })[1], "prediction");
  check([1], { prediction: Array.from({ length: 100 }, () => 3) });
  assertEquals(refusal([1], { prediction: Array.from({ length: 101 }, () => 3) }), [
    "The prediction may have as many tokens as the model's context, 100, received 101",
    "prediction",
    "context_length_exceeded",
  ]);
  check([1], { allowedTokenIds: [1, 49] });
  assertEquals(refusal([1], { allowedTokenIds: [50] })[1], "allowed_token_ids");
  const badWords = tokens(48).map((id) => [id]);
  check([1], { badWords }, { maxLogitEdits: 50 });
  assertEquals(refusal([1], { badWords, minTokens: 2, maxTokens: 3 })[1], "bad_words");
  assertEquals(refusal([1], { badWords: [[1, 50]] })[1], "bad_words");
  check([1], { logprobs: 5 });
  assertEquals(refusal([1], { logprobs: 6 })[0], "At most 5 log-probabilities a token are offered, requested 6");
  check([1], { promptLogprobs: 5 });
  assertEquals(refusal([1], { promptLogprobs: 6 }).slice(0, 2), [
    "prompt_logprobs must be at most 5 on this server, received 6",
    "prompt_logprobs",
  ]);
  const long = { maxModelLen: 1e6, numPages: 1e6 };
  check(tokens(43_690), { promptLogprobs: 5 }, long);
  assertEquals(refusal(tokens(43_691), { promptLogprobs: 5 }, long)[1], "prompt_logprobs");
  check(tokens(14), { repetitionPenalty: 1.5 });
  assertEquals(
    refusal(tokens(15), { repetitionPenalty: 1.5 })[0],
    "logit_bias, min_tokens, bad_words and penalties together may " +
      "change 31 logits of a token, the engine allows 30",
  );
});

Deno.test("checkRequest() refuses deadlines and weights that are no amounts", () => {
  const request = { id: "a", promptTokenIds: [1], sampling: samplingParams({}) };
  for (const deadlineMs of [0, 5, null]) checkRequest({ ...request, deadlineMs }, LIMITS);
  checkRequest({ ...request, tenant: { name: "a", weight: 0.01 } }, LIMITS);
  for (const deadlineMs of [-1, NaN]) {
    assertThrows(() => checkRequest({ ...request, deadlineMs }, LIMITS), RequestError, `received ${deadlineMs}`);
  }
  for (const weight of [0, -1, NaN, Infinity]) {
    const tenant = { name: "a", weight };
    assertThrows(() => checkRequest({ ...request, tenant }, LIMITS), RequestError, `received ${weight}`);
  }
});
