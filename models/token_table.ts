/**
 * The bytes of every token, and text from them.
 *
 * @module
 */

import { alphabetBytes } from "./byte_alphabet.ts";
import type { TokenTable } from "./types.ts";

/** How a vocabulary writes bytes. */
export type TokenSpelling =
  /** One character of GPT-2's alphabet per byte. */
  | "byte_level"
  /** UTF-8 with U+2581 for a space; `<0x0A>` for single bytes. */
  | "sentencepiece";

/** Bits of {@linkcode TokenTable.flags}. */
export const tokenFlag = { special: 1, byte: 2 } as const;

export interface TokenTableSource {
  readonly spelling: TokenSpelling;
  /** Token of each id; holes are undefined. */
  readonly tokens: readonly (string | undefined)[];
  /** Ids of tokens added to the vocabulary, which are literal text; true: special. */
  readonly added: ReadonlyMap<number, boolean>;
  readonly vocabSize: number;
  readonly stripFirstSpace: boolean;
}

const utf8 = new TextEncoder();
const byteToken = /^<0x([0-9A-Fa-f]{2})>$/;

/** Lays the bytes of `vocabSize` tokens end to end; a hole has none. */
export function buildTokenTable(source: TokenTableSource): TokenTable {
  const { vocabSize } = source;
  const pieces: Uint8Array[] = [];
  const offsets = sharedArray(Int32Array, vocabSize + 1);
  const flags = sharedArray(Uint8Array, vocabSize);
  let length = 0;
  for (let id = 0; id < vocabSize; id++) {
    const { bytes, isByte } = tokenBytes(source, id);
    pieces.push(bytes);
    length += bytes.length;
    offsets[id + 1] = length;
    flags[id] = (source.added.get(id) === true ? tokenFlag.special : 0) | (isByte ? tokenFlag.byte : 0);
  }
  const bytes = sharedArray(Uint8Array, length);
  pieces.forEach((piece, id) => bytes.set(piece, offsets[id]!));
  return { bytes, offsets, flags, stripFirstSpace: source.stripFirstSpace };
}

function tokenBytes(source: TokenTableSource, id: number): { bytes: Uint8Array; isByte: boolean } {
  const token = source.tokens[id];
  if (token === undefined) return { bytes: new Uint8Array(0), isByte: false };
  if (source.spelling === "byte_level") {
    const bytes = source.added.has(id) ? null : alphabetBytes(token);
    return { bytes: bytes ?? utf8.encode(token), isByte: false };
  }
  const hex = source.added.has(id) ? null : byteToken.exec(token);
  if (hex !== null) return { bytes: Uint8Array.of(parseInt(hex[1]!, 16)), isByte: true };
  return { bytes: utf8.encode(token.replaceAll("\u2581", " ")), isByte: false };
}

/**
 * Text of a sequence of tokens. Invalid bytes of byte-level tokens follow the WHATWG decoder; a run of byte-fallback
 * tokens that is not valid UTF-8 becomes one U+FFFD a byte, as in Hugging Face's tokenizers.
 *
 * @throws {RangeError} When an id is not below the table's size.
 */
export function decodeTokens(table: TokenTable, ids: readonly number[], skipSpecialTokens: boolean): string {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  let text = "";
  let byteRun: number[] = [];
  const endByteRun = () => {
    if (byteRun.length > 0) text += byteRunText(byteRun);
    byteRun = [];
  };
  for (const id of ids) {
    if (!Number.isInteger(id) || id < 0 || id >= table.flags.length) {
      throw new RangeError(`Cannot decode token id ${id}: ids are 0 to ${table.flags.length - 1}`);
    }
    const flags = table.flags[id]!;
    if (skipSpecialTokens && (flags & tokenFlag.special) !== 0) continue;
    // TextDecoder takes no shared memory: slice() copies.
    const bytes = table.bytes.slice(table.offsets[id], table.offsets[id + 1]);
    if ((flags & tokenFlag.byte) !== 0) {
      byteRun.push(bytes[0]!);
      continue;
    }
    endByteRun();
    text += decoder.decode(bytes, { stream: true });
  }
  endByteRun();
  text += decoder.decode();
  return table.stripFirstSpace && text.startsWith(" ") ? text.slice(1) : text;
}

function byteRunText(bytes: readonly number[]): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(bytes));
  } catch {
    return "\ufffd".repeat(bytes.length);
  }
}

function sharedArray<T extends Uint8Array | Int32Array>(
  type: { new (buffer: SharedArrayBuffer): T; readonly BYTES_PER_ELEMENT: number },
  length: number,
): T {
  return new type(new SharedArrayBuffer(length * type.BYTES_PER_ELEMENT));
}
