/**
 * Chat templates through `@huggingface/jinja`.
 *
 * @module
 */

import { Template } from "@huggingface/jinja";
import { ModelFileError } from "./errors.ts";
import type { ChatMessage, ChatTemplate } from "./types.ts";

/** A chat template refused the messages, or failed on them. The message is the template's own. */
export class TemplateError extends TypeError {
  override readonly name = "TemplateError";
}

export interface ChatTemplateSource {
  /** For error messages. */
  readonly file: string;
  readonly source: string;
  /** Used instead when a request brings tools. */
  readonly toolSource?: string;
  /** Texts of the tokens that begin and end a sequence; null where there is none. */
  readonly bosToken: string | null;
  readonly eosToken: string | null;
}

/**
 * Parses a chat template.
 *
 * @throws {ModelFileError} When it is no Jinja template.
 */
export function chatTemplateOf(from: ChatTemplateSource): ChatTemplate {
  const template = parse(from.file, from.source);
  const toolTemplate = from.toolSource === undefined ? template : parse(from.file, from.toolSource);
  const tokens = { bos_token: from.bosToken ?? "", eos_token: from.eosToken ?? "" };
  return {
    source: from.source,
    render(messages, { addGenerationPrompt = true, variables = {} } = {}) {
      const { tools } = variables;
      const hasTools = Array.isArray(tools) && tools.length > 0;
      const values = { ...tokens, ...variables, messages, add_generation_prompt: addGenerationPrompt };
      return renderWith(hasTools ? toolTemplate : template, values);
    },
  };
}

function parse(file: string, source: string): Template {
  try {
    return new Template(source);
  } catch (error) {
    throw new ModelFileError(file, "chat template", `is no valid Jinja template: ${messageOf(error)}`);
  }
}

function renderWith(
  template: Template,
  values: { messages: readonly ChatMessage[] } & Record<string, unknown>,
): string {
  try {
    return template.render(values);
  } catch (error) {
    throw new TemplateError(messageOf(error), { cause: error });
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
