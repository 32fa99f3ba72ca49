/**
 * Log-probabilities in the shapes of chat and of plain completions, and of prompts as vLLM has them. OpenAI gives tokens as texts, so ids are turned
 * into the bytes they stand for.
 *
 * @module
 */

import type { PromptLogprob, TokenLogprob } from "../engine/types.ts";
import type { TokenTable } from "../models/types.ts";

/** JSON has no -Infinity; this is what vLLM and OpenAI's own server send for it. */
const LOWEST_LOGPROB = -9999;

/** Special tokens' bit in the token table's flags. */
const SPECIAL = 1;

/** Texts and bytes of tokens. */
export class TokenTexts {
  readonly #table: TokenTable;
  /** Bytes of the longest token; bounds how much text a number of tokens can hold. */
  readonly longestBytes: number;

  constructor(table: TokenTable) {
    this.#table = table;
    let longest = 1;
    for (let id = 0; id + 1 < table.offsets.length; id++) {
      longest = Math.max(longest, table.offsets[id + 1]! - table.offsets[id]!);
    }
    this.longestBytes = longest;
  }

  /** A token's bytes; none for an id that the tokenizer does not have. */
  bytes(id: number): Uint8Array {
    const { bytes, offsets } = this.#table;
    return bytes.slice(offsets[id] ?? 0, offsets[id + 1] ?? offsets[id] ?? 0);
  }

  /** A token as text; U+FFFD stands for an incomplete character. */
  text(id: number): string {
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(this.bytes(id));
  }

  isSpecial(id: number): boolean {
    return ((this.#table.flags[id] ?? 0) & SPECIAL) !== 0;
  }
}

/** `choices[].logprobs` of a chat completion. */
export function chatLogprobs(texts: TokenTexts, entries: readonly TokenLogprob[]): Record<string, unknown> {
  const write = ({ tokenId, logprob }: { tokenId: number; logprob: number }) => ({
    token: texts.text(tokenId),
    logprob: finite(logprob),
    bytes: [...texts.bytes(tokenId)],
  });
  return {
    content: entries.map((entry) => ({ ...write(entry), top_logprobs: entry.top.map(write) })),
    refusal: null,
  };
}

/**
 * `prompt_logprobs`: for each token of the prompt those of itself and of the `numTop` likeliest in its place, by token id;
 * null for the first.
 */
export function promptLogprobsJson(
  texts: TokenTexts,
  entries: readonly (PromptLogprob | null)[],
  numTop: number,
): (Record<string, unknown> | null)[] {
  const write = (tokenId: number, logprob: number, rank: number) => (
    { logprob: finite(logprob), rank, decoded_token: texts.text(tokenId) }
  );
  return entries.map((entry) => {
    if (entry === null) return null;
    const top = entry.top.slice(0, numTop).map((one, i) => [one.tokenId, write(one.tokenId, one.logprob, i + 1)]);
    return Object.fromEntries([...top, [entry.tokenId, write(entry.tokenId, entry.logprob, entry.rank)]]);
  });
}

/** `choices[].logprobs` of a completion, or of a part of it: one entry a token; null where nothing stands before it. */
export interface CompletionLogprobsJson {
  readonly tokens: readonly string[];
  readonly token_logprobs: readonly (number | null)[];
  readonly top_logprobs: readonly (Record<string, number> | null)[];
  readonly text_offset: readonly number[];
}

/** A prompt that a completion's text begins with. */
export interface Echo {
  readonly text: string;
  readonly tokenIds: readonly number[];
  /** One for each token. */
  readonly logprobs: readonly (PromptLogprob | null)[];
  /** Likeliest tokens to show. */
  readonly numTop: number;
}

/** `choices[].logprobs` of one choice of a completion; successive parts continue `text_offset`. */
export class CompletionLogprobs {
  readonly #texts: TokenTexts;
  readonly #skipSpecialTokens: boolean;
  /** Characters (code points) of the choice's text that start before the next token. */
  #offset = 0;

  constructor(texts: TokenTexts, options: { skipSpecialTokens: boolean }) {
    this.#texts = texts;
    this.#skipSpecialTokens = options.skipSpecialTokens;
  }

  /** The part for the output's next tokens, behind `echo` where that is the choice's first part. */
  part(entries: readonly TokenLogprob[], echo: Echo | null = null): CompletionLogprobsJson {
    const before = echo === null ? [] : this.#echo(echo);
    const all = [
      ...before,
      ...entries.map((entry) => {
        const isHidden = this.#skipSpecialTokens && this.#texts.isSpecial(entry.tokenId);
        return { ...entry, offset: isHidden ? this.#offset : this.#advance(entry.tokenId) };
      }),
    ];
    return {
      tokens: all.map(({ tokenId }) => this.#texts.text(tokenId)),
      token_logprobs: all.map(({ logprob }) => logprob === null ? null : finite(logprob)),
      top_logprobs: all.map(({ tokenId, logprob, top }) => logprob === null ? null : this.#top(tokenId, logprob, top)),
      text_offset: all.map(({ offset }) => offset),
    };
  }

  /** The prompt's tokens in its text. Special ones that the tokenizer added are not part of it. */
  #echo({ text, tokenIds, logprobs, numTop }: Echo) {
    const characters = [...text];
    const isAt = (part: string) => [...part].every((character, i) => characters[this.#offset + i] === character);
    const entries = tokenIds.map((tokenId, i) => {
      const isHidden = this.#texts.isSpecial(tokenId) && !isAt(this.#texts.text(tokenId));
      const offset = Math.min(isHidden ? this.#offset : this.#advance(tokenId), characters.length);
      const entry = logprobs[i] ?? null;
      return { tokenId, logprob: entry?.logprob ?? null, top: entry?.top.slice(0, numTop) ?? [], offset };
    });
    // Whatever the tokenizer changed or added, the output begins behind the text.
    this.#offset = characters.length;
    return entries;
  }

  /** Text to log-probability; the token itself is always among them. Of tokens with the same text, the likelier. */
  #top(tokenId: number, logprob: number, top: TokenLogprob["top"]): Record<string, number> {
    const byText: Record<string, number> = Object.create(null);
    for (const one of [...top, { tokenId, logprob }]) {
      const text = this.#texts.text(one.tokenId);
      byText[text] = Math.max(byText[text] ?? LOWEST_LOGPROB, finite(one.logprob));
    }
    return byText;
  }

  /** The token's offset; a token that begins inside a character has that character's. */
  #advance(tokenId: number): number {
    const bytes = this.#texts.bytes(tokenId);
    const isContinuation = (byte: number) => (byte & 0xC0) === 0x80;
    const start = bytes.length > 0 && isContinuation(bytes[0]!) ? Math.max(0, this.#offset - 1) : this.#offset;
    for (const byte of bytes) if (!isContinuation(byte)) this.#offset++;
    return start;
  }
}

export function finite(logprob: number): number {
  return logprob >= LOWEST_LOGPROB ? Math.min(logprob, 0) : LOWEST_LOGPROB;
}
