/**
 * Which requests can be served at all. Checked on the HTTP thread, so that a request that can never run is refused
 * at once and by name.
 *
 * @module
 */

import { RequestError } from "./errors.ts";
import type { KvKind } from "../ffi/native_engine.ts";
import { maxLogitEdits } from "./logit_edits.ts";
import { MAX_PROMPT_LOGPROBS } from "./prompt_scores.ts";
import type { GenerationRequest, SamplingParams } from "./types.ts";

/** What a request is measured against. */
export interface RequestLimits {
  readonly maxModelLen: number;
  readonly vocabSize: number;
  readonly numEosTokenIds: number;
  /** KV dtypes that requests may choose, the default first, and how many tokens a page holds of each. */
  readonly kvKinds: readonly KvKind[];
  readonly numPages: number;
  readonly maxNumSeqs: number;
  readonly maxLogprobs: number;
  readonly maxLogitEdits: number;
}

/** More sequences than fit in one step wait their turn; a request may fill this many turns. */
const MAX_TURNS = 8;

/** @throws {RequestError} The request can never run; the message has the numbers. */
export function checkRequest(request: GenerationRequest, limits: RequestLimits): void {
  checkTokens(request.promptTokenIds, { name: "prompt", vocabSize: limits.vocabSize });
  checkPrediction(request.sampling.prediction ?? [], limits);
  checkLength(request, limits, limits.kvKinds[kvIndexOf(request, limits)]!.pageSize);
  checkSampling(request, limits);
  checkOrder(request);
}

/**
 * Which of the engine's KV dtypes a request has.
 *
 * @throws {RequestError} It asks for one that is not enabled.
 */
export function kvIndexOf({ kvCacheDtype }: GenerationRequest, { kvKinds }: RequestLimits): number {
  if (kvCacheDtype === undefined || kvCacheDtype === "auto") return 0;
  const wanted = kvCacheDtype === "fp8" ? "fp8_e4m3" : kvCacheDtype;
  const kvIndex = kvKinds.findIndex(({ kvDtype }) => kvDtype === wanted);
  if (kvIndex >= 0) return kvIndex;
  throw new RequestError(
    `kv_cache_dtype must be one that this server enables, ${kvKinds.map(({ kvDtype }) => kvDtype).join(", ")}; ` +
      `received "${kvCacheDtype}"`,
    { param: "kv_cache_dtype" },
  );
}

function checkOrder({ deadlineMs = null, tenant }: GenerationRequest): void {
  if (deadlineMs !== null && !(deadlineMs >= 0)) {
    throw new RequestError(`deadline_ms must be at least 0, received ${deadlineMs}`, { param: "deadline_ms" });
  }
  if (tenant !== undefined && !(tenant.weight > 0 && tenant.weight < Infinity)) {
    throw new RequestError(`A tenant's weight must be above 0 and finite, received ${tenant.weight}`);
  }
}

function checkTokens(ids: readonly number[], { name, vocabSize }: { name: string; vocabSize: number }): void {
  const invalid = ids.find((id) => !(Number.isInteger(id) && id >= 0 && id < vocabSize));
  if (invalid === undefined) return;
  throw new RequestError(`The ${name}'s token ids must be integers from 0 to ${vocabSize - 1}, received ${invalid}`, {
    param: name,
  });
}

/** Its tokens go into steps as guesses, and each sequence of the request has an index of them. */
function checkPrediction(prediction: readonly number[], { maxModelLen, vocabSize }: RequestLimits): void {
  if (prediction.length > maxModelLen) {
    throw new RequestError(
      `The prediction may have as many tokens as the model's context, ${maxModelLen}, received ${prediction.length}`,
      { param: "prediction", code: "context_length_exceeded" },
    );
  }
  checkTokens(prediction, { name: "prediction", vocabSize });
}

function checkLength({ promptTokenIds, sampling }: GenerationRequest, limits: RequestLimits, pageSize: number): void {
  const { maxModelLen, numPages } = limits;
  const promptTokens = promptTokenIds.length;
  if (promptTokens === 0) throw new RequestError("The prompt has no tokens", { param: "prompt" });
  const numTokens = promptTokens + sampling.maxTokens;
  const param = promptTokens >= maxModelLen ? "prompt" : "max_tokens";
  if (numTokens > maxModelLen) {
    throw new RequestError(
      `This model's maximum context length is ${maxModelLen} tokens. However, you requested ${numTokens} tokens ` +
        `(${promptTokens} in the prompt, ${sampling.maxTokens} for the completion)`,
      { param, code: "context_length_exceeded" },
    );
  }
  // The last token sampled never enters the cache.
  const numPagesNeeded = Math.ceil((numTokens - 1) / pageSize);
  if (numPagesNeeded > numPages) {
    throw new RequestError(
      `The request needs ${numPagesNeeded} pages of ${pageSize} tokens for its ${promptTokens} prompt tokens and ` +
        `${sampling.maxTokens} tokens of completion, but the KV cache has ${numPages}`,
      { param, code: "context_length_exceeded" },
    );
  }
}

function checkSampling({ promptTokenIds, sampling }: GenerationRequest, limits: RequestLimits): void {
  const { vocabSize, numEosTokenIds } = limits;
  const maxN = limits.maxNumSeqs * MAX_TURNS;
  if (sampling.n > maxN) {
    throw new RequestError(`n must be at most ${maxN} on this server, received ${sampling.n}`, { param: "n" });
  }
  if (sampling.logprobs !== null && sampling.logprobs > limits.maxLogprobs) {
    throw new RequestError(
      `At most ${limits.maxLogprobs} log-probabilities a token are offered, requested ${sampling.logprobs}`,
      { param: "logprobs" },
    );
  }
  checkPromptLogprobs({ promptTokens: promptTokenIds.length, numTop: sampling.promptLogprobs }, limits);
  checkTokenIds("logit_bias", sampling.logitBias.keys(), vocabSize);
  checkTokenIds("stop_token_ids", sampling.stopTokenIds, vocabSize);
  checkTokenIds("allowed_token_ids", sampling.allowedTokenIds ?? [], vocabSize);
  for (const word of sampling.badWords) checkTokenIds("bad_words", word, vocabSize);
  checkChoices(sampling, limits);
  const numStopBans = sampling.minTokens > 0 ? sampling.stopTokenIds.length + numEosTokenIds : 0;
  if (sampling.badWords.length + numStopBans >= vocabSize) {
    const param = sampling.badWords.length > 0 ? "bad_words" : "stop_token_ids";
    throw new RequestError(`min_tokens and bad_words would ban all ${vocabSize} tokens: too many ${param}`, { param });
  }
  const edits = maxLogitEdits(sampling, { promptTokens: promptTokenIds.length, numEosTokenIds, vocabSize });
  if (edits > limits.maxLogitEdits) {
    throw new RequestError(
      `logit_bias, min_tokens, bad_words and penalties together may change ${edits} logits of a token, ` +
        `the engine allows ${limits.maxLogitEdits}`,
      { param: sampling.logitBias.size > limits.maxLogitEdits ? "logit_bias" : null },
    );
  }
}

/** An output that is kept to some texts needs a token that ends it, and nothing that could leave it no token at all. */
function checkChoices(sampling: SamplingParams, { vocabSize, numEosTokenIds }: RequestLimits): void {
  const { choices, allowedTokenIds, badWords, minTokens, ignoreEos, stopTokenIds } = sampling;
  if (choices === null) return;
  const param = "guided_choice";
  const refuse = (reason: string) => new RequestError(`An output cannot be kept to choices ${reason}`, { param });
  if (choices.length === 0) throw refuse("when there are none");
  if (allowedTokenIds !== null) throw refuse("with allowed_token_ids");
  if (badWords.length > 0) throw refuse("with bad_words");
  if (minTokens > 0) throw refuse("with min_tokens");
  if (stopTokenIds.length === 0 && (ignoreEos || numEosTokenIds === 0)) throw refuse("without a token that ends it");
  for (const choice of choices) checkTokenIds(param, choice, vocabSize);
}

function checkPromptLogprobs(
  { promptTokens, numTop }: { promptTokens: number; numTop: number | null },
  { maxLogprobs }: RequestLimits,
): void {
  if (numTop === null) return;
  const param = "prompt_logprobs";
  if (numTop > maxLogprobs) {
    throw new RequestError(`prompt_logprobs must be at most ${maxLogprobs} on this server, received ${numTop}`, {
      param,
    });
  }
  const numLogprobs = promptTokens * (numTop + 1);
  if (numLogprobs <= MAX_PROMPT_LOGPROBS) return;
  throw new RequestError(
    `A request may ask for at most ${MAX_PROMPT_LOGPROBS} log-probabilities of its prompt, received ${promptTokens} ` +
      `tokens and prompt_logprobs ${numTop}, which are ${numLogprobs}`,
    { param },
  );
}

function checkTokenIds(param: string, ids: Iterable<number>, vocabSize: number): void {
  for (const id of ids) {
    if (id >= vocabSize) {
      throw new RequestError(`${param} must name token ids from 0 to ${vocabSize - 1}, received ${id}`, { param });
    }
  }
}
