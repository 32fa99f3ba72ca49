/**
 * From a request's fields to the engine's sampling params.
 *
 * @module
 */

import { samplingParams } from "../engine/sampling_params.ts";
import type { GenerationRequest, SamplingParams } from "../engine/types.ts";
import { badRequest } from "./errors.ts";
import type { Server } from "./_server.ts";
import type { GenerationFields } from "./schemas/_fields.ts";

/** How a request is queued, how long it may take, which cached prefixes it may use and how its own are stored. */
export function requestOrder(
  server: Server,
  body: GenerationFields,
): Pick<GenerationRequest, "priority" | "cacheSalt" | "deadlineMs" | "kvCacheDtype"> {
  return {
    ...(body.kv_cache_dtype === undefined || body.kv_cache_dtype === null ? {} : { kvCacheDtype: body.kv_cache_dtype }),
    priority: body.priority ?? 0,
    cacheSalt: body.cache_salt ?? "",
    deadlineMs: body.deadline_ms ?? server.deadlineMs,
  };
}

/** What differs between chat and plain completions. */
export interface SamplingExtras {
  /** Sequences to make from the prompt. */
  readonly n: number;
  readonly maxTokens: number;
  readonly logprobs: number | null;
  /** At least so many likeliest tokens of each place of the prompt; null: what the request asks for. */
  readonly promptLogprobs?: number | null;
  /** Field to name when `logprobs` is too large. */
  readonly logprobsParam: string;
  /** Tokens that the output may be; null or left out: none. */
  readonly prediction?: readonly number[] | null;
}

/**
 * A prompt's sampling params; the model's own defaults apply where the request is silent.
 *
 * @throws {RequestError | ApiError} 400.
 */
export function requestSampling(
  server: Server,
  body: GenerationFields,
  { n, maxTokens, logprobs, logprobsParam, promptLogprobs = null, prediction = null }: SamplingExtras,
): SamplingParams {
  const asked = body.prompt_logprobs ?? null;
  checkNumLogprobs(server, logprobs, logprobsParam);
  checkNumLogprobs(server, asked, "prompt_logprobs");
  // Nothing but the likeliest token is left at 0; the engine's range for top_p is above 0.
  const isArgmax = body.top_p === 0;
  return samplingParams({
    n,
    maxTokens,
    minTokens: body.min_tokens ?? undefined,
    temperature: body.temperature ?? undefined,
    topP: isArgmax ? 1 : body.top_p ?? undefined,
    topK: isArgmax ? 1 : body.top_k ?? undefined,
    minP: body.min_p ?? undefined,
    repetitionPenalty: body.repetition_penalty ?? undefined,
    presencePenalty: body.presence_penalty ?? undefined,
    frequencyPenalty: body.frequency_penalty ?? undefined,
    logitBias: body.logit_bias ?? null,
    allowedTokenIds: body.allowed_token_ids ?? null,
    speculate: body.speculate ?? undefined,
    prediction,
    choices: choiceTokens(server, body),
    badWords: badWordTokens(server, body.bad_words ?? []),
    seed: body.seed ?? null,
    stop: body.stop ?? null,
    stopTokenIds: body.stop_token_ids ?? undefined,
    includeStopStrInOutput: body.include_stop_str_in_output ?? undefined,
    ignoreEos: body.ignore_eos ?? undefined,
    logprobs,
    promptLogprobs: asked === null && promptLogprobs === null ? null : Math.max(asked ?? 0, promptLogprobs ?? 0),
    skipSpecialTokens: body.skip_special_tokens ?? undefined,
  }, server.generationDefaults);
}

function checkNumLogprobs(server: Server, value: number | null, param: string): void {
  const { maxLogprobs } = server.engine.info;
  if (value === null || value <= maxLogprobs) return;
  throw badRequest(`Invalid "${param}": expected at most ${maxLogprobs}, received ${value}`, { param });
}

/** @throws {ApiError} 400: log-probabilities of the prompt come with the whole response only. */
export function checkPromptLogprobs(body: GenerationFields): void {
  if ((body.prompt_logprobs ?? null) === null || body.stream !== true) return;
  throw badRequest('"prompt_logprobs" is not offered with "stream": true', { param: "prompt_logprobs" });
}

/**
 * The tokens of the texts that the output is kept to; null: it is free.
 *
 * @throws {ApiError} 400: they are given twice.
 */
function choiceTokens(
  server: Server,
  { guided_choice = null, structured_outputs = null }: GenerationFields,
): number[][] | null {
  if (guided_choice !== null && structured_outputs !== null) {
    const param = "guided_choice";
    throw badRequest(`Expected either "${param}" or "structured_outputs", received both`, { param });
  }
  const texts = guided_choice ?? structured_outputs?.choice;
  const options = { addSpecialTokens: false, parseSpecialTokens: false };
  return texts?.map((text) => server.tokenizer.encode(text.toWellFormed(), options)) ?? null;
}

/**
 * A word's tokens at the beginning of a text and after a space. The second are left out where the space is a token of its
 * own, which the first follow.
 */
function badWordTokens(server: Server, words: readonly string[]): number[][] {
  const encode = (text: string) => server.tokenizer.encode(text.toWellFormed(), { addSpecialTokens: false });
  return words.flatMap((word) => {
    const bare = encode(word.trimStart());
    if (bare.length === 0) throw badRequest("bad_words must hold more than spaces", { param: "bad_words" });
    const spaced = encode(` ${word.trimStart()}`);
    return [bare, spaced].filter((tokens, i) => i === 0 || (tokens[0] !== bare[0] && tokens.length === bare.length));
  });
}
