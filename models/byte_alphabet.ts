/**
 * Byte-level BPE writes every byte as one printable character; this is the way back.
 *
 * Source: GPT-2's `bytes_to_unicode`: printable Latin-1 bytes stand for themselves, the other 68 are U+0100, U+0101, ...
 * in order of their value.
 *
 * @module
 */

const isPrintable = (byte: number) => (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte !== 0xad);

const byteOfChar: ReadonlyMap<string, number> = (() => {
  const map = new Map<string, number>();
  let nextChar = 0x100;
  for (let byte = 0; byte < 256; byte++) map.set(String.fromCharCode(isPrintable(byte) ? byte : nextChar++), byte);
  return map;
})();

/** The bytes that a byte-level token stands for, or null when one of its characters is not of the alphabet. */
export function alphabetBytes(token: string): Uint8Array | null {
  const bytes = new Uint8Array(token.length);
  for (let i = 0; i < token.length; i++) {
    const byte = byteOfChar.get(token[i]!);
    if (byte === undefined) return null;
    bytes[i] = byte;
  }
  return bytes;
}
