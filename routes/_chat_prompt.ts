/**
 * From a conversation to the prompt's text.
 *
 * @module
 */

import type { ChatMessage, ChatTemplate } from "../models/types.ts";
import { checkNumChars } from "./_prompt.ts";
import type { Server } from "./_server.ts";
import { badRequest } from "./errors.ts";
import type { ChatCompletionBody } from "./schemas/chat_completion.ts";

/** What of a body the prompt depends on. */
export type Conversation = Pick<
  ChatCompletionBody,
  "messages" | "add_generation_prompt" | "continue_final_message" | "chat_template_kwargs"
>;

/** Stands behind a message that is continued while it is rendered: its own text may occur in what the template adds. */
const END_MARK = "[[the message goes on here]]";

/**
 * @param param The body's field that has the messages.
 * @throws {ApiError} 400: there is no chat template, or it refuses the messages.
 */
export function renderPrompt(server: Server, conversation: Conversation, param = "messages"): string {
  const { chatTemplate } = server;
  if (chatTemplate === null) {
    throw badRequest("The model has no chat template; use /v1/completions", { param });
  }
  const render: ChatTemplate["render"] = (messages, options) => {
    try {
      return chatTemplate.render(messages, options);
    } catch (error) {
      // A template refuses by raising; what else fails in it comes from the messages or variables as well.
      const reason = error instanceof Error ? error.message : String(error);
      throw badRequest(`The chat template refused the messages: ${reason}`, { param, cause: error });
    }
  };
  const messages = conversation.messages.map(({ role, content, name }): ChatMessage => ({
    role: role === "developer" ? "system" : role,
    content: contentText(content),
    ...name && { name },
  }));
  // Before the template's work, which grows with the text.
  checkNumChars(server, messages.reduce((sum, { content }) => sum + (content?.length ?? 0), 0), param);
  const variables = conversation.chat_template_kwargs ?? {};
  if (conversation.continue_final_message === true) {
    checkContinuable(conversation);
    const last = messages.at(-1)!;
    const marked = [...messages.slice(0, -1), { ...last, content: last.content + END_MARK }];
    return cutAtMark(render(marked, { addGenerationPrompt: false, variables }), last.content!);
  }
  return render(messages, { addGenerationPrompt: conversation.add_generation_prompt ?? true, variables });
}

/** A message's text: that of its parts, a line each. */
export function contentText(content: string | readonly { readonly text: string }[]): string {
  return typeof content === "string" ? content : content.map(({ text }) => text).join("\n");
}

function checkContinuable({ messages, add_generation_prompt }: Conversation): void {
  const param = "continue_final_message";
  if (add_generation_prompt === true) {
    throw badRequest(`"${param}" and "add_generation_prompt" cannot both be true`, { param });
  }
  const { role } = messages.at(-1)!;
  if (role !== "assistant") {
    throw badRequest(`"${param}" needs a last message of the assistant, received one of role "${role}"`, { param });
  }
}

/** The prompt up to the end of the last message's text: what a template puts behind it would end the turn. */
function cutAtMark(prompt: string, content: string): string {
  const text = prompt.slice(0, Math.max(0, prompt.lastIndexOf(END_MARK)));
  // Templates trim contents or do not.
  if (content.trim() === "" || !text.endsWith(content.trimStart())) {
    throw badRequest("The last message cannot be continued: the chat template does not write its text as it is", {
      param: "continue_final_message",
    });
  }
  return text;
}
