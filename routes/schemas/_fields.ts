/**
 * Request fields that chat and plain completions share: types, limits and descriptions. The OpenAPI page and
 * `docs/api.md` are made from them.
 *
 * @module
 */

import { z } from "zod";
import { MAX_BAD_WORDS, MAX_CHOICES, MAX_N, MAX_STOPS } from "../../engine/sampling_params.ts";

const MAX_INT32 = 2 ** 31 - 1;
const MAX_LOGIT_BIASES = 1024;
const MAX_STOP_LENGTH = 1024;
/** They are tokenized at once, and each of their tokens that the output comes to has a mask of the vocabulary. */
const MAX_CHOICE_CHARS = 16_384;

/** An optional field; null is the same as absent, as OpenAI's server has it. */
export function field<T extends z.ZodType>(schema: T, description: string) {
  return schema.nullish().describe(description);
}

/** An integer in a range. */
export function integer(min: number, max = MAX_INT32) {
  return z.int().min(min).max(max);
}

const flag = z.boolean();
const choice = z.array(z.string().min(1).max(MAX_STOP_LENGTH)).min(1).max(MAX_CHOICES).refine(
  (texts) => texts.reduce((sum, { length }) => sum + length, 0) <= MAX_CHOICE_CHARS,
  { error: `expected at most ${MAX_CHOICE_CHARS} characters in all` },
);
const stopString = z.string().min(1).max(MAX_STOP_LENGTH);

/** The parsed fields that all generation requests share. */
export type GenerationFields = z.infer<z.ZodObject<typeof GENERATION_FIELDS>>;

/** Shared by all generation requests. */
export const GENERATION_FIELDS = {
  model: field(z.string().max(1024), "A served model's name; default: the first one."),
  temperature: field(z.number().min(0).max(2), "0 is greedy. Default: the model's, else 1."),
  top_p: field(
    z.number().min(0).max(1),
    "Sample among the likeliest tokens whose probabilities sum to this; 0 leaves the likeliest token alone. " +
      "Default: the model's, else 1.",
  ),
  top_k: field(integer(-1), "Sample among this many likeliest tokens; 0 and -1: all. Default: the model's, else all."),
  min_p: field(
    z.number().min(0).max(1),
    "Leave out tokens less likely than this times the likeliest. Default: the model's, else 0.",
  ),
  n: field(integer(1, MAX_N), "Choices to make from each prompt. Default 1."),
  stop: field(
    z.union([stopString, z.array(stopString).max(MAX_STOPS)], {
      error: `expected a non-empty string or a list of up to ${MAX_STOPS} of them`,
    }),
    "Texts that end the output; not part of it.",
  ),
  stop_token_ids: field(z.array(integer(0)).max(MAX_STOPS), "Token ids that end the output."),
  include_stop_str_in_output: field(flag, "Keep the stop text in the output. Default false."),
  ignore_eos: field(flag, "Go on after the end-of-sequence token, up to max_tokens. Default false."),
  min_tokens: field(integer(0), "Tokens before an end-of-sequence or stop token may come. Default 0."),
  seed: field(z.int(), "Makes sampling repeatable; choice i uses seed + i. Default: random."),
  presence_penalty: field(z.number().min(-2).max(2), "Lowers tokens that the output already has. Default 0."),
  frequency_penalty: field(z.number().min(-2).max(2), "The same, for each time they occur. Default 0."),
  repetition_penalty: field(
    z.number().gt(0).max(100),
    "Divides the logits of tokens in the prompt or output; 1 is none. Default: the model's, else 1.",
  ),
  logit_bias: field(
    z.record(z.string().regex(/^\d{1,10}$/, { error: "expected a token id" }), z.number().min(-100).max(100))
      .refine((bias) => Object.keys(bias).length <= MAX_LOGIT_BIASES, {
        error: `expected at most ${MAX_LOGIT_BIASES} token ids`,
      }),
    `Token id to a value added to its logit; at most ${MAX_LOGIT_BIASES}.`,
  ),
  allowed_token_ids: field(
    z.array(integer(0)).min(1),
    "The only tokens that may be sampled; the end-of-sequence token too only if it is among them.",
  ),
  guided_choice: field(
    choice,
    "The output is one of these texts: at each place only tokens that go on with one may be sampled. " +
      `At most ${MAX_CHOICE_CHARS} characters in all.`,
  ),
  structured_outputs: field(
    z.strictObject({ choice }, { error: 'only "choice" is supported' }),
    "The newer form of guided_choice.",
  ),
  prompt_logprobs: field(
    integer(0),
    "Return the log-probability of each token of the prompt and of this many likeliest tokens in its place, by the model " +
      "alone: no sampling setting changes them. Not with stream. Default: none.",
  ),
  bad_words: field(
    z.array(z.string().min(1).max(MAX_STOP_LENGTH)).max(MAX_BAD_WORDS / 2),
    "Texts that the output shall not hold, at its beginning or after a space: their last token is banned where it would " +
      `complete one; at most ${MAX_BAD_WORDS / 2}.`,
  ),
  speculate: field(
    flag,
    "Let the server guess tokens, where it does: it changes how fast they come, never which. Default true.",
  ),
  skip_special_tokens: field(flag, "Leave special tokens out of the text. Default true."),
  return_token_ids: field(flag, "Add prompt_token_ids and token_ids to the response. Default false."),
  stream: field(flag, "Send the output as server-sent events while it is made. Default false."),
  stream_options: field(
    z.object({
      include_usage: field(flag, "Send a last chunk with the usage and no choices. Default false."),
      continuous_usage_stats: field(flag, "With include_usage: put the usage so far into every chunk. Default false."),
    }),
    "Only with stream.",
  ),
  priority: field(
    z.int().min(-(2 ** 31)).max(MAX_INT32),
    "Requests of a lower priority number go first, but one admission in sixteen goes to the longest wait. Default 0.",
  ),
  deadline_ms: field(
    integer(1),
    "Milliseconds from the request's arrival after which it is ended, waiting or running: with what it has so far, " +
      'finish_reason "length" and stop_reason "deadline"; without a single token, with the error 408 ' +
      "`deadline_exceeded`. Default: the server's `--deadline-ms`, else never.",
  ),
  kv_cache_dtype: field(
    z.string().min(1).max(32),
    "How this request's keys and values are stored: one of those that the server enables by `--kv-cache-dtypes` " +
      "(`GET /v1/kv` lists them). Default: the first.",
  ),
  cache_salt: field(
    z.string().min(1).max(1024),
    "Share cached prefixes only with requests of the same salt. Default: with all requests that give none.",
  ),
  user: field(z.string().max(1024), "A label of the client's own; not used."),
  request_id: field(
    z.string().regex(/^[\w.:-]{1,128}$/, { error: "expected up to 128 letters, digits and _ . : -" }),
    "Becomes part of the response's id. Default: random.",
  ),
};
