/**
 * The ids that end a sequence.
 *
 * @module
 */

import { tokenFlag } from "./token_table.ts";
import type { Tokenizer } from "./types.ts";

/** Tokens that end a turn, by the names that chat models give them. */
const turnEnds = [
  "<|im_end|>",
  "<|eot_id|>",
  "<|eom_id|>",
  "<|end|>",
  "<|end_of_text|>",
  "<|endoftext|>",
  "<end_of_turn>",
  "<|eot|>",
  "<|end_of_turn|>",
];

/**
 * The ids that the files name, and those of known end tokens that the chat template writes: chat models end a turn with
 * them even where the files name another end.
 */
export function endTokenIds(tokenizer: Tokenizer, named: readonly number[], template: string | null): number[] {
  const ids = new Set(named);
  for (const token of turnEnds) {
    if (template === null || !template.includes(token)) continue;
    const [id, ...others] = tokenizer.encode(token, { addSpecialTokens: false });
    if (id === undefined || others.length > 0) continue;
    if ((tokenizer.table.flags[id]! & tokenFlag.special) !== 0) ids.add(id);
  }
  return [...ids];
}
