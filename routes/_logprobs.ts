/**
 * Log-probabilities in the shapes of chat and of plain completions. OpenAI gives tokens as texts, so ids are turned
 * into the bytes they stand for.
 *
 * @module
 */

import type { TokenLogprob } from "../engine/types.ts";
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

  /** The part for the next tokens. */
  part(entries: readonly TokenLogprob[]): Record<string, unknown> {
    return {
      tokens: entries.map(({ tokenId }) => this.#texts.text(tokenId)),
      token_logprobs: entries.map(({ logprob }) => finite(logprob)),
      top_logprobs: entries.map((entry) => this.#top(entry)),
      text_offset: entries.map(({ tokenId }) => this.#advance(tokenId)),
    };
  }

  /** Text to log-probability; the sampled token is always among them. Of tokens with the same text, the likelier. */
  #top(entry: TokenLogprob): Record<string, number> {
    const top: Record<string, number> = Object.create(null);
    for (const { tokenId, logprob } of [...entry.top, entry]) {
      const text = this.#texts.text(tokenId);
      top[text] = Math.max(top[text] ?? LOWEST_LOGPROB, finite(logprob));
    }
    return top;
  }

  /** The token's offset; a token that begins inside a character has that character's. */
  #advance(tokenId: number): number {
    if (this.#skipSpecialTokens && this.#texts.isSpecial(tokenId)) return this.#offset;
    const bytes = this.#texts.bytes(tokenId);
    const isContinuation = (byte: number) => (byte & 0xC0) === 0x80;
    const start = bytes.length > 0 && isContinuation(bytes[0]!) ? Math.max(0, this.#offset - 1) : this.#offset;
    for (const byte of bytes) if (!isContinuation(byte)) this.#offset++;
    return start;
  }
}

function finite(logprob: number): number {
  return logprob >= LOWEST_LOGPROB ? Math.min(logprob, 0) : LOWEST_LOGPROB;
}
