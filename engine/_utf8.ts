/**
 * Where UTF-8 may be cut.
 *
 * @module
 */

/** Bytes of the character that starts with this byte; 0 if none does. */
export function characterLength(lead: number): number {
  if (lead < 0x80) return 1;
  if (lead < 0xc2 || lead > 0xf4) return 0;
  return lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

/** Bytes at the end of `bytes[0 .. length - 1]` that begin a character without ending it: 0 to 3. */
export function incompleteTail(bytes: Uint8Array, length: number): number {
  for (let tail = 1; tail <= Math.min(3, length); tail++) {
    const byte = bytes[length - tail]!;
    if ((byte & 0xc0) === 0x80) continue;
    const isCut = tail < characterLength(byte) && (tail === 1 || mayFollow(byte, bytes[length - tail + 1]!));
    return isCut ? tail : 0;
  }
  return 0;
}

/** Whether a continuation byte may come second after this lead: no overlong forms, surrogates or beyond U+10FFFF. */
function mayFollow(lead: number, second: number): boolean {
  if (lead === 0xe0) return second >= 0xa0;
  if (lead === 0xed) return second < 0xa0;
  if (lead === 0xf0) return second >= 0x90;
  if (lead === 0xf4) return second < 0x90;
  return true;
}
