/**
 * The body of `/v1/completions`.
 *
 * @module
 */

import { z } from "zod";
import { MAX_N } from "../../engine/sampling_params.ts";
import { field, GENERATION_FIELDS, integer } from "./_fields.ts";

/** Most prompts of one request. */
export const MAX_PROMPTS = 1024;

/** `max_tokens` where a request is silent, as OpenAI has it. */
export const DEFAULT_MAX_TOKENS = 16;

/** A prompt: text or token ids. */
export type PromptInput = string | readonly number[];

/** A parsed completion request. */
export type CompletionBody = z.infer<typeof completionBody>;

/** The body of `/v1/completions`. */
export const completionBody = z.object({
  prompt: z.unknown().transform(readPrompts).meta({
    description: `A text, token ids, or a list of up to ${MAX_PROMPTS} of either.`,
    anyOf: [
      { type: "string" },
      { type: "array", items: { type: "string" }, minItems: 1, maxItems: MAX_PROMPTS },
      { type: "array", items: { type: "integer", minimum: 0 }, minItems: 1 },
      {
        type: "array",
        items: { type: "array", items: { type: "integer", minimum: 0 }, minItems: 1 },
        minItems: 1,
        maxItems: MAX_PROMPTS,
      },
    ],
  }),
  ...GENERATION_FIELDS,
  max_tokens: field(
    integer(0),
    `Most tokens to make; 0 only with echo, for the prompt's own logprobs. Default ${DEFAULT_MAX_TOKENS}.`,
  ),
  logprobs: field(
    integer(0),
    "Return the log-probabilities of the output's tokens and of this many likeliest tokens. Default: none.",
  ),
  echo: field(
    z.boolean(),
    "Put the prompt before the output, and its tokens' log-probabilities before the output's. Default false.",
  ),
  best_of: field(
    integer(1, MAX_N),
    "Make this many choices from each prompt and return the n whose tokens have the highest mean log-probability; not " +
      "with stream. Default: n.",
  ),
  add_special_tokens: field(
    z.boolean(),
    "Add what the model's tokenizer adds around a text, for example a begin-of-sequence token. Default true.",
  ),
});

/**
 * Sorts the four forms of `prompt`. By hand: trying them one after another as a union would build an error for each
 * of up to millions of token ids.
 */
function readPrompts(value: unknown, context: z.RefinementCtx): PromptInput[] {
  if (typeof value === "string") return [value];
  if (!Array.isArray(value) || value.length === 0) {
    return refuse(context, "expected a string, token ids, or a non-empty list of either");
  }
  if (typeof value[0] === "number") return [tokenIds(value, context, [])];
  if (value.length > MAX_PROMPTS) return refuse(context, `expected at most ${MAX_PROMPTS} prompts`);
  if (value.every((prompt) => typeof prompt === "string")) return value;
  if (!value.every(Array.isArray)) return refuse(context, "expected all prompts as texts or all as token ids");
  return value.map((prompt, i) => tokenIds(prompt, context, [i]));
}

/** Refuses what are no token ids, at the first of them. */
export function tokenIds(value: readonly unknown[], context: z.RefinementCtx, path: number[]): readonly number[] {
  const wrong = value.findIndex((id) => !Number.isInteger(id) || (id as number) < 0 || (id as number) >= 2 ** 31);
  if (wrong >= 0) refuse(context, "expected token ids, integers >= 0", [...path, wrong]);
  return value as readonly number[];
}

function refuse(context: z.RefinementCtx, message: string, path: number[] = []): never {
  context.addIssue({ code: "custom", message, path });
  return z.NEVER;
}
