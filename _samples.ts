/**
 * Texts of the user's as token ids: what `octavo calibrate` and `octavo eval-kv` run.
 *
 * @module
 */

import { join } from "node:path";
import type { ChatMessage, ModelFiles } from "./models/types.ts";
import { OptionError } from "./options.ts";

/**
 * Reads samples in order: a .txt file is one document, cut into samples of `maxLength` tokens; a line of a .jsonl file is
 * one sample, `{"text"}`, `{"messages"}` (the chat template is applied) or `{"token_ids"}`, of which the first `maxLength`
 * tokens are taken; of a folder all such files, in the order of their names.
 *
 * @throws {OptionError} A line is something else.
 */
export function readSamples(model: ModelFiles, data: string, maxLength: number): number[][] {
  const paths = Deno.statSync(data).isDirectory
    ? Array.from(Deno.readDirSync(data), ({ name }) => join(data, name)).sort()
    : [data];
  return paths.filter((path) => /\.(txt|jsonl)$/.test(path)).flatMap((path) => {
    const text = Deno.readTextFileSync(path);
    if (path.endsWith(".txt")) return cut(model, text, maxLength);
    return text.split("\n").flatMap((line, i) =>
      line.trim() === "" ? [] : [lineSample(model, line, `${path}:${i + 1}`).slice(0, maxLength)]
    );
  }).filter(({ length }) => length > 0);
}

/** Whole samples; a document shorter than one is one. Where the tokenizer begins a text with BOS, each begins so. */
function cut({ tokenizer }: ModelFiles, text: string, maxLength: number): number[][] {
  const tokens = tokenizer.encode(text, { parseSpecialTokens: false });
  const head = tokens.length > 0 && tokens[0] === tokenizer.bosTokenId ? tokens.splice(0, 1) : [];
  const length = maxLength - head.length;
  const count = Math.max(1, Math.floor(tokens.length / length));
  return Array.from({ length: count }, (_, i) => [...head, ...tokens.slice(i * length, (i + 1) * length)]);
}

function lineSample(model: ModelFiles, line: string, place: string): number[] {
  let entry: { text?: unknown; messages?: unknown; token_ids?: unknown };
  try {
    entry = JSON.parse(line) ?? {};
  } catch (error) {
    throw new OptionError(`Cannot read ${place}: ${(error as Error).message}`);
  }
  const { text, messages, token_ids: tokenIds } = entry;
  if (typeof text === "string") return model.tokenizer.encode(text, { parseSpecialTokens: false });
  if (Array.isArray(tokenIds)) return checkedIds(tokenIds, model.config.vocabSize, place);
  if (!Array.isArray(messages)) {
    throw new OptionError(`Cannot read ${place}: expected "text", "messages" or "token_ids"`);
  }
  if (model.chatTemplate === null) throw new OptionError(`Cannot read ${place}: the model has no chat template`);
  return model.tokenizer.encode(model.chatTemplate.render(messages as ChatMessage[]), { addSpecialTokens: false });
}

function checkedIds(ids: readonly unknown[], vocabSize: number, place: string): number[] {
  const isId = (id: unknown): id is number => Number.isInteger(id) && (id as number) >= 0 && (id as number) < vocabSize;
  if (ids.every(isId)) return [...ids];
  const wrong = JSON.stringify(ids.find((id) => !isId(id)));
  throw new OptionError(`Cannot read ${place}: token_ids must be integers 0 to ${vocabSize - 1}, found ${wrong}`);
}
