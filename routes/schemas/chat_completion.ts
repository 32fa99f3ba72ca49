/**
 * The body of `/v1/chat/completions`.
 *
 * @module
 */

import { z } from "zod";
import { field, GENERATION_FIELDS, integer } from "./_fields.ts";

/** Most messages of a conversation. */
export const MAX_MESSAGES = 4096;
const MAX_TEMPLATE_VARIABLES = 32;

/** Set by the server when it renders the template. */
const RESERVED_VARIABLES = [
  "add_generation_prompt",
  "bos_token",
  "chat_template",
  "documents",
  "eos_token",
  "messages",
  "tokenize",
  "tools",
];

const textPart = z.object({
  type: z.literal("text", { error: 'only "text" parts are supported' }),
  text: z.string(),
});

/** Asks for nothing: null or an empty list. */
function refused(description: string) {
  return z.unknown().refine(
    (value) => value === null || value === undefined || (Array.isArray(value) && !value.length),
    {
      error: "tool calls are not supported yet",
    },
  ).optional().describe(description);
}

const content = z.union([z.string(), z.array(textPart).min(1)], {
  error: "expected a string or a list of text parts",
});

const message = z.object({
  role: z.enum(["system", "developer", "user", "assistant"]).describe("developer is taken as system."),
  content: content.describe("A text, or text parts, which are joined with line breaks."),
  name: field(z.string().max(256), "Given to the chat template."),
  tool_calls: refused("Not supported yet."),
});

/** A parsed chat request. */
export type ChatCompletionBody = z.infer<typeof chatCompletionBody>;

/** The body of `/v1/chat/completions`. */
export const chatCompletionBody = z.object({
  messages: z.array(message).min(1).max(MAX_MESSAGES).describe("The conversation so far."),
  ...GENERATION_FIELDS,
  max_completion_tokens: field(integer(1), "Most tokens to make. Default: what the context has left."),
  max_tokens: field(integer(1), "The older name of max_completion_tokens, which wins."),
  logprobs: field(z.boolean(), "Return the log-probabilities of the output's tokens. Default false."),
  top_logprobs: field(integer(0), "With logprobs: also of this many likeliest tokens. Default 0."),
  prediction: field(
    z.object({
      type: z.literal("content", { error: 'expected "content"' }),
      content: content.describe("The text, or text parts, which are put together."),
    }),
    "What the output may be, for the most part: where the server guesses tokens, it guesses these first. It changes how " +
      "fast the output comes, never what it is. At most as many tokens as the context holds.",
  ),
  separate_reasoning: field(
    z.boolean(),
    "Return what the model writes between `<think>` and `</think>` at the beginning as reasoning_content, not in content. " +
      "Default: the server's `--separate-reasoning`, true.",
  ),
  add_generation_prompt: field(z.boolean(), "End the prompt with the start of an assistant's turn. Default true."),
  continue_final_message: field(
    z.boolean(),
    "Go on with the last message's text, which is the assistant's, rather than begin an answer. The output does not " +
      "repeat it. Default false.",
  ),
  chat_template_kwargs: field(
    z.record(
      z.string().regex(/^[A-Za-z][A-Za-z0-9_]{0,63}$/, { error: "expected an identifier" })
        .refine((name) => !RESERVED_VARIABLES.includes(name), { error: "set by the server" }),
      z.unknown(),
    ).refine((variables) => Object.keys(variables).length <= MAX_TEMPLATE_VARIABLES, {
      error: `expected at most ${MAX_TEMPLATE_VARIABLES} variables`,
    }),
    `Variables for the chat template; at most ${MAX_TEMPLATE_VARIABLES}.`,
  ),
});
