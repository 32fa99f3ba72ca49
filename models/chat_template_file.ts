/**
 * A chat template that the user brings, instead of the model's own.
 *
 * @module
 */

import { chatTemplateOf } from "./chat_template.ts";
import { endTokenIds } from "./end_tokens.ts";
import { ModelFileError } from "./errors.ts";
import type { ModelFiles } from "./types.ts";

/**
 * The model with the Jinja template of a file. Tokens known to end a turn end a sequence too where the template writes them.
 *
 * @throws {ModelFileError} The file cannot be read, or holds no Jinja template.
 */
export function withChatTemplate(model: ModelFiles, file: string): ModelFiles {
  const { tokenizer, eosTokenIds } = model;
  const source = readText(file);
  const text = (id: number | null | undefined) => (id ?? null) === null ? null : tokenizer.idToToken(id!) ?? null;
  return {
    ...model,
    chatTemplate: chatTemplateOf({
      file,
      source,
      bosToken: text(tokenizer.bosTokenId),
      eosToken: text(eosTokenIds[0]),
    }),
    eosTokenIds: endTokenIds(tokenizer, eosTokenIds, source),
  };
}

function readText(file: string): string {
  try {
    return Deno.readTextFileSync(file);
  } catch (error) {
    throw new ModelFileError(file, "chat template", `cannot be read: ${(error as Error).message}`);
  }
}
