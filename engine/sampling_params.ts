/**
 * Sampling params: ranges and defaults.
 *
 * @module
 */

import type { GenerationDefaults } from "../models/types.ts";
import { RequestError } from "./errors.ts";
import type { SamplingParams } from "./types.ts";

/** What a user may give; the rest has defaults. */
export type SamplingOptions =
  & {
    readonly [K in Exclude<keyof SamplingParams, "seed" | "stop" | "logitBias">]?: SamplingParams[K] | undefined;
  }
  & {
    /** An integer; taken modulo 2^64. */
    readonly seed?: number | bigint | null | undefined;
    readonly stop?: string | readonly string[] | null | undefined;
    readonly logitBias?: ReadonlyMap<number, number> | Readonly<Record<string, number>> | null | undefined;
  };

/** Most sequences of one request. */
export const MAX_N = 128;
/** Most stop strings, and stop token ids, of one request. */
export const MAX_STOPS = 64;
/** Most bad words of one request. */
export const MAX_BAD_WORDS = 1024;
/** Most texts that an output may be kept to. */
export const MAX_CHOICES = 1024;
/** Most tokens of a bad word or choice. */
const MAX_RUN_LENGTH = 1024;
const MAX_STOP_LENGTH = 1024;
const MAX_INT32 = 2 ** 31 - 1;
/** Where it is this cold, or so little is left, only the likeliest token can be drawn; kept clear of float's zero. */
const MIN_TEMPERATURE = 1e-5;
const MIN_TOP_P = 1e-6;

/**
 * Complete sampling params.
 *
 * Defaults: n 1, maxTokens 16, minTokens 0, temperature 1, topK 0, topP 1, minP 0, no penalties, no bias, all tokens
 * allowed, no bad words, a random seed, no stops, no log-probabilities of the output or the prompt, special tokens skipped.
 *
 * @param defaults What the model's own generation config says, between the options and the defaults above.
 * @throws {RequestError} Naming the field, in wire spelling, what it may be and what it was.
 */
export function samplingParams(options: SamplingOptions = {}, defaults: GenerationDefaults = {}): SamplingParams {
  const integer = (name: string, value: number, min: number, max: number) =>
    check(name, value, Number.isInteger(value) && value >= min && value <= max, `an integer from ${min} to ${max}`);
  const number = (name: string, value: number, min: number, max: number) =>
    check(name, value, typeof value === "number" && value >= min && value <= max, `a number from ${min} to ${max}`);

  const maxTokens = integer("max_tokens", options.maxTokens ?? 16, 1, MAX_INT32);
  const topK = options.topK ?? defaults.topK ?? 0;
  const topP = options.topP ?? defaults.topP ?? 1;
  const temperature = number("temperature", options.temperature ?? defaults.temperature ?? 1, 0, 100);
  return {
    n: integer("n", options.n ?? 1, 1, MAX_N),
    maxTokens,
    minTokens: integer("min_tokens", options.minTokens ?? 0, 0, maxTokens),
    temperature: temperature < MIN_TEMPERATURE ? 0 : temperature,
    // -1 is how vLLM says "all".
    topK: topK === -1 ? 0 : integer("top_k", topK, 0, MAX_INT32),
    topP: Math.max(MIN_TOP_P, check("top_p", topP, topP > 0 && topP <= 1, "a number above 0 and at most 1")),
    minP: number("min_p", options.minP ?? defaults.minP ?? 0, 0, 1),
    repetitionPenalty: number(
      "repetition_penalty",
      options.repetitionPenalty ?? defaults.repetitionPenalty ?? 1,
      0.01,
      100,
    ),
    presencePenalty: number("presence_penalty", options.presencePenalty ?? 0, -2, 2),
    frequencyPenalty: number("frequency_penalty", options.frequencyPenalty ?? 0, -2, 2),
    logitBias: logitBias(options.logitBias ?? {}),
    allowedTokenIds: allowedTokenIds(options.allowedTokenIds ?? null),
    choices: options.choices ? tokenRuns("choices", options.choices, MAX_CHOICES) : null,
    badWords: tokenRuns("bad_words", options.badWords ?? [], MAX_BAD_WORDS),
    seed: seed(options.seed ?? null),
    stop: stopStrings(options.stop ?? []),
    stopTokenIds: stopTokenIds(options.stopTokenIds ?? []),
    includeStopStrInOutput: options.includeStopStrInOutput ?? false,
    ignoreEos: options.ignoreEos ?? false,
    logprobs: (options.logprobs ?? null) === null ? null : integer("logprobs", options.logprobs!, 0, MAX_INT32),
    promptLogprobs: (options.promptLogprobs ?? null) === null
      ? null
      : integer("prompt_logprobs", options.promptLogprobs!, 0, MAX_INT32),
    speculate: options.speculate ?? true,
    prediction: options.prediction ?? null,
    skipSpecialTokens: options.skipSpecialTokens ?? true,
  };
}

function check<T>(name: string, value: T, isValid: boolean, expected: string): T {
  if (isValid) return value;
  throw new RequestError(`${name} must be ${expected}, received ${show(value)}`, { param: name });
}

/** A value as a message shows it: never longer than a line. */
function show(value: unknown): string {
  const text = typeof value === "string" ? JSON.stringify(value) : String(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

function logitBias(given: NonNullable<SamplingOptions["logitBias"]>): ReadonlyMap<number, number> {
  const bias = new Map<number, number>();
  for (const [key, value] of given instanceof Map ? given : Object.entries(given)) {
    const token = typeof key === "string" && key.trim() === "" ? NaN : Number(key);
    check("logit_bias", key, Number.isInteger(token) && token >= 0 && token <= MAX_INT32, "keyed by token ids");
    check("logit_bias", value, value >= -100 && value <= 100, "a map to numbers from -100 to 100");
    bias.set(token, value);
  }
  return bias;
}

function seed(given: number | bigint | null): bigint {
  if (given === null) return crypto.getRandomValues(new BigUint64Array(1))[0]!;
  check("seed", given, typeof given === "bigint" || Number.isSafeInteger(given), "an integer");
  return BigInt.asUintN(64, BigInt(given));
}

function stopStrings(given: string | readonly string[]): readonly string[] {
  const stops = typeof given === "string" ? [given] : given;
  check("stop", stops.length, stops.length <= MAX_STOPS, `at most ${MAX_STOPS} strings`);
  for (const stop of stops) {
    check("stop", stop, stop.length > 0 && stop.isWellFormed(), "non-empty, well-formed strings");
    check("stop", stop.length, stop.length <= MAX_STOP_LENGTH, `strings of at most ${MAX_STOP_LENGTH} characters`);
  }
  return [...new Set(stops)];
}

function allowedTokenIds(given: readonly number[] | null): readonly number[] | null {
  if (given === null) return null;
  check("allowed_token_ids", given.length, given.length > 0, "one token id or more");
  for (const id of given) check("allowed_token_ids", id, Number.isInteger(id) && id >= 0, "token ids");
  return [...new Set(given)];
}

function tokenRuns(
  name: string,
  given: readonly (readonly number[])[],
  most: number,
): readonly (readonly number[])[] {
  check(name, given.length, given.length <= most, `at most ${most} runs of token ids`);
  const runs = new Map<string, readonly number[]>();
  for (const run of given) {
    check(name, run.length, run.length > 0 && run.length <= MAX_RUN_LENGTH, `1 to ${MAX_RUN_LENGTH} tokens long`);
    for (const id of run) check(name, id, Number.isInteger(id) && id >= 0, "token ids");
    runs.set(run.join(), [...run]);
  }
  return [...runs.values()];
}

function stopTokenIds(given: readonly number[]): readonly number[] {
  check("stop_token_ids", given.length, given.length <= MAX_STOPS, `at most ${MAX_STOPS} token ids`);
  for (const id of given) check("stop_token_ids", id, Number.isInteger(id) && id >= 0, "token ids");
  return [...new Set(given)];
}
