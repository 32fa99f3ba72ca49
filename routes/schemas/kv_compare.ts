/**
 * The body of `/v1/kv/compare`.
 *
 * @module
 */

import { z } from "zod";
import { KV_CACHE_DTYPE_NAMES } from "../../engine/kv_cache_plan.ts";
import { MAX_COMPARED_TOKENS } from "../../engine/types.ts";
import { field, GENERATION_FIELDS, integer } from "./_fields.ts";

/** `max_tokens` where a request is silent. */
export const DEFAULT_COMPARED_TOKENS = 32;

/** Most of them: each is a step of its own under both caches. */
export const MAX_DECODED_TOKENS = 256;

const dtype = z.enum(KV_CACHE_DTYPE_NAMES.filter((name) => name !== "auto"));

/** The body of `/v1/kv/compare`. */
export const kvCompareBody = z.object({
  model: GENERATION_FIELDS.model,
  prompt: z.union([z.string(), z.array(integer(0)).min(1)], { error: "expected a text or token ids" })
    .describe(`A text or token ids; with max_tokens at most ${MAX_COMPARED_TOKENS} tokens.`),
  kv_cache_dtype: field(dtype, "The cache to compare. Default: the server's own."),
  reference: field(dtype, "What it is compared with. Default: float32 on a CPU, else the model's dtype."),
  max_tokens: field(
    integer(0, MAX_DECODED_TOKENS),
    `Tokens to decode after the prompt, greedily under the reference. Default ${DEFAULT_COMPARED_TOKENS}.`,
  ),
  add_special_tokens: field(
    z.boolean(),
    "Add what the model's tokenizer adds around a text, for example a begin-of-sequence token. Default true.",
  ),
});
