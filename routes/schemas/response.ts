/**
 * The body of `/v1/responses`.
 *
 * @module
 */

import { z } from "zod";
import { chatCompletionBody, MAX_MESSAGES } from "./chat_completion.ts";
import { field, GENERATION_FIELDS, integer } from "./_fields.ts";

const { n: _n, prompt_logprobs: _logprobs, return_token_ids: _ids, stream_options: _options, ...SHARED } =
  GENERATION_FIELDS;
const { chat_template_kwargs } = chatCompletionBody.shape;

const textPart = z.object({
  type: z.enum(["input_text", "output_text"], { error: "only text parts are supported" }),
  text: z.string(),
});

const inputMessage = z.object({
  type: z.literal("message", { error: "only messages and reasoning are supported" }).nullish(),
  role: z.enum(["system", "developer", "user", "assistant"]),
  content: z.union([z.string(), z.array(textPart).min(1)], { error: "expected a string or a list of text parts" }),
});

/** What a client sends back of an answer before; the chat template decides itself what becomes of it. */
const reasoningItem = z.object({ type: z.literal("reasoning") });

/** A parsed request. */
export type ResponseBody = z.infer<typeof responseBody>;

/** The body of `/v1/responses`. */
export const responseBody = z.object({
  input: z.union([z.string(), z.array(z.union([inputMessage, reasoningItem])).min(1).max(MAX_MESSAGES)], {
    error: "expected a text or a list of messages",
  }).describe("A text, or the conversation so far: messages of texts. Reasoning among them is left out."),
  instructions: field(z.string(), "A system message before the input."),
  max_output_tokens: field(integer(1), "Most tokens to make. Default: what the context has left."),
  metadata: field(z.record(z.string(), z.string()), "Returned as it is."),
  store: field(z.boolean(), "Not used: nothing is stored."),
  text: field(
    z.object({
      format: z.object({ type: z.literal("text", { error: 'only "text" is supported' }) }).nullish(),
      verbosity: z.null().optional(),
    }),
    "The format: text.",
  ),
  truncation: field(z.literal("disabled", { error: 'expected "disabled"' }), "What is too long is refused, never cut."),
  ...SHARED,
  chat_template_kwargs,
  separate_reasoning: field(
    z.boolean(),
    "Return what the model writes between `<think>` and `</think>` at the beginning as an item of type reasoning before " +
      "the message. Default: the server's `--separate-reasoning`, true.",
  ),
});
