/**
 * Token ids to text, one at a time. The texts that come out add up to the text of all tokens decoded at once; U+FFFD
 * stands only for bytes that are not UTF-8.
 *
 * Only a character's first bytes are ever held back (at most 3), so a token's text appears with the token that
 * completes it. Byte-fallback tokens (`<0xE4>`) give one U+FFFD for each invalid byte, as Hugging Face's decoder does;
 * other tokens follow the Encoding standard (one for each maximal part of a character).
 *
 * @module
 */

import { tokenFlag } from "../models/token_table.ts";
import type { TokenTable } from "../models/types.ts";
import { characterLength, incompleteTail } from "./_utf8.ts";

const REPLACEMENT = "\ufffd";
/** Of each table: texts of the tokens met so far that are whole characters. Most are, and decoding costs the most. */
const TEXTS = new WeakMap<TokenTable, (string | undefined)[]>();
const UTF8 = new TextDecoder("utf-8", { ignoreBOM: true });

export interface DetokenizerOptions {
  /** Leave special tokens out of the text. */
  readonly skipSpecialTokens: boolean;
  /** The text begins here: a dummy first space (`TokenTable.stripFirstSpace`) is cut. False when it goes on. */
  readonly isTextStart: boolean;
}

/**
 * The text of one sequence.
 *
 * @example
 * ```ts ignore
 * const detokenizer = new Detokenizer(tokenizer.table, { skipSpecialTokens: true, isTextStart: false });
 * let text = "";
 * for (const id of ids) text += detokenizer.push(id);
 * text += detokenizer.flush();
 * ```
 */
export class Detokenizer {
  readonly #table: TokenTable;
  readonly #texts: (string | undefined)[];
  readonly #skipSpecialTokens: boolean;
  #stripsSpace: boolean;
  /** The bytes held back, then those being decoded. */
  #bytes = new Uint8Array(64);
  #numHeld = 0;
  #heldIsFallback = false;

  constructor(table: TokenTable, options: DetokenizerOptions) {
    this.#table = table;
    this.#texts = textsOf(table);
    this.#skipSpecialTokens = options.skipSpecialTokens;
    this.#stripsSpace = table.stripFirstSpace && options.isTextStart;
  }

  /** Adds a token and returns the text that is certain now. Ids beyond the table (padded vocabularies) have no text. */
  push(id: number): string {
    const { bytes, offsets, flags } = this.#table;
    if (id < 0 || id >= offsets.length - 1) return "";
    const flag = flags[id]!;
    if (this.#skipSpecialTokens && (flag & tokenFlag.special) !== 0) return "";
    const isFallback = (flag & tokenFlag.byte) !== 0;
    const before = isFallback === this.#heldIsFallback ? "" : this.#takeHeld();
    this.#heldIsFallback = isFallback;
    const known = this.#numHeld === 0 ? this.#texts[id] : undefined;
    if (known !== undefined) return this.#strip(before + known);
    const begin = offsets[id]!;
    const end = offsets[id + 1]!;
    let text = "";
    if (isFallback) {
      for (let i = begin; i < end; i++) text += this.#pushFallbackByte(bytes[i]!);
    } else {
      const isAlone = this.#numHeld === 0;
      text = this.#pushBytes(bytes.subarray(begin, end));
      if (isAlone && this.#numHeld === 0) this.#texts[id] = text;
    }
    return this.#strip(before + text);
  }

  /** What was held back, as U+FFFD: no more tokens follow. */
  flush(): string {
    return this.#strip(this.#takeHeld());
  }

  #pushBytes(bytes: Uint8Array): string {
    const length = this.#numHeld + bytes.length;
    this.#reserve(length);
    this.#bytes.set(bytes, this.#numHeld);
    this.#numHeld = incompleteTail(this.#bytes, length);
    const text = UTF8.decode(this.#bytes.subarray(0, length - this.#numHeld));
    this.#bytes.copyWithin(0, length - this.#numHeld, length);
    return text;
  }

  #pushFallbackByte(byte: number): string {
    const held = this.#bytes;
    held[this.#numHeld++] = byte;
    let text = "";
    while (this.#numHeld > 0 && incompleteTail(held, this.#numHeld) < this.#numHeld) {
      let length = characterLength(held[0]!);
      // Invalid bytes never decode to exactly one code point: the one that breaks the character has its own.
      let character = length > 0 && length <= this.#numHeld ? UTF8.decode(held.subarray(0, length)) : "";
      if (character === "" || character.length !== (length === 4 ? 2 : 1)) {
        character = REPLACEMENT;
        length = 1;
      }
      text += character;
      held.copyWithin(0, length, this.#numHeld);
      this.#numHeld -= length;
    }
    return text;
  }

  #takeHeld(): string {
    if (this.#numHeld === 0) return "";
    const text = this.#heldIsFallback
      ? REPLACEMENT.repeat(this.#numHeld)
      : UTF8.decode(this.#bytes.subarray(0, this.#numHeld));
    this.#numHeld = 0;
    return text;
  }

  #strip(text: string): string {
    if (!this.#stripsSpace || text === "") return text;
    this.#stripsSpace = false;
    return text.startsWith(" ") ? text.slice(1) : text;
  }

  #reserve(length: number): void {
    if (length <= this.#bytes.length) return;
    const bytes = new Uint8Array(length * 2);
    bytes.set(this.#bytes);
    this.#bytes = bytes;
  }
}

function textsOf(table: TokenTable): (string | undefined)[] {
  let texts = TEXTS.get(table);
  if (texts === undefined) TEXTS.set(table, texts = new Array(table.offsets.length - 1));
  return texts;
}
