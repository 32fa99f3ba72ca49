/**
 * The bodies of `/tokenize` and `/detokenize`, vLLM's.
 *
 * @module
 */

import { z } from "zod";
import { chatCompletionBody } from "./chat_completion.ts";
import { tokenIds } from "./completion.ts";
import { field, GENERATION_FIELDS } from "./_fields.ts";

const { messages, add_generation_prompt, continue_final_message, chat_template_kwargs } = chatCompletionBody.shape;

/** The body of `/tokenize`. */
export const tokenizeBody = z.object({
  model: GENERATION_FIELDS.model,
  prompt: field(z.string(), "A text; or else messages."),
  messages: field(messages, "A conversation, rendered by the model's chat template; or else a prompt."),
  add_generation_prompt,
  continue_final_message,
  chat_template_kwargs,
  add_special_tokens: field(
    z.boolean(),
    "Add what the model's tokenizer adds around a text, for example a begin-of-sequence token. Default true for a " +
      "prompt, false for messages.",
  ),
  return_token_strs: field(z.boolean(), "Add each token as the vocabulary writes it. Default false."),
});

/** The body of `/detokenize`. */
export const detokenizeBody = z.object({
  model: GENERATION_FIELDS.model,
  tokens: z.unknown().transform((value, context) => {
    if (Array.isArray(value)) return tokenIds(value, context, []);
    context.addIssue({ code: "custom", message: "expected a list of token ids" });
    return z.NEVER;
  }).meta({ description: "Token ids.", type: "array", items: { type: "integer", minimum: 0 } }),
});
