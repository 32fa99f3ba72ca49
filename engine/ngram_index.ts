/**
 * Finds where the end of a growing text of tokens stood before, so that what followed there can be guessed to follow
 * again (prompt lookup). Each run of `minLength` tokens is chained to the run before it that has the same hash:
 *
 * ```
 *  tokens     a b c d e x a b c          minLength = 2
 *  ends at        2 3 4 5 6 7 8 9
 *  #previous[9] = 3                      "b c" ended there before; the longest end that stood there is "a b c"
 *  guesses    d e x a b c ...            the tokens from 3 on; past the text's end they go on with themselves
 * ```
 * A token costs one hash; a search looks at a fixed number of places and compares a fixed number of tokens at each,
 * however long the text is. Memory: 8 bytes a token and the table of hashes.
 *
 * @module
 */

/** Places that a search looks at, the latest first. */
const MAX_PLACES = 8;
/** Longer agreement says no more. */
const MAX_MATCH = 32;
const MAX_HASH_BITS = 16;

export class NgramIndex {
  readonly #minLength: number;
  readonly #hashShift: number;
  /** The latest place at which a run with this hash ended; 0: none. */
  readonly #latest: Int32Array;
  #tokens: Int32Array;
  /** Of a run's end: where one with its hash ended before; 0: nowhere. */
  #previous: Int32Array;
  #length = 0;

  /**
   * @param minLength Tokens that must agree, >= 1.
   * @param expectedLength How long the text may become. Where it becomes much longer, less is found.
   */
  constructor(minLength: number, expectedLength: number) {
    const bits = Math.min(MAX_HASH_BITS, Math.max(4, Math.ceil(Math.log2(expectedLength))));
    this.#minLength = minLength;
    this.#hashShift = 32 - bits;
    this.#latest = new Int32Array(1 << bits);
    this.#tokens = new Int32Array(64);
    this.#previous = new Int32Array(65);
  }

  /** Tokens of the text. */
  get length(): number {
    return this.#length;
  }

  push(token: number): void {
    if (this.#length === this.#tokens.length) this.#grow();
    this.#tokens[this.#length++] = token;
    if (this.#length < this.#minLength) return;
    const hash = this.#hashEnd();
    this.#previous[this.#length] = this.#latest[hash]!;
    this.#latest[hash] = this.#length;
  }

  /**
   * Where the longest end of the text, of at least `minLength` tokens, ended before; of several places the latest.
   * Null: it is new.
   */
  find(): number | null {
    let best: number | null = null;
    let bestLength = this.#minLength - 1;
    let place = this.#length < this.#minLength ? 0 : this.#previous[this.#length]!;
    for (let i = 0; i < MAX_PLACES && place > 0 && bestLength < MAX_MATCH; i++) {
      const length = this.#matchLength(place);
      if (length > bestLength) {
        best = place;
        bestLength = length;
      }
      place = this.#previous[place]!;
    }
    return best;
  }

  /** Fills target with the tokens that followed a place. */
  copy(place: number, target: Int32Array): void {
    for (let i = 0; i < target.length; i++) {
      const at = place + i;
      target[i] = at < this.#length ? this.#tokens[at]! : target[at - this.#length]!;
    }
  }

  /** How many tokens before a place are those before the text's end. */
  #matchLength(place: number): number {
    const most = Math.min(place, MAX_MATCH);
    let length = 0;
    while (length < most && this.#tokens[place - 1 - length] === this.#tokens[this.#length - 1 - length]) length++;
    return length;
  }

  #hashEnd(): number {
    let hash = 0;
    for (let i = this.#length - this.#minLength; i < this.#length; i++) {
      hash = Math.imul(hash ^ this.#tokens[i]!, 0x9e3779b1);
      hash ^= hash >>> 15;
    }
    return Math.imul(hash, 0x85ebca6b) >>> this.#hashShift;
  }

  #grow(): void {
    const tokens = new Int32Array(this.#tokens.length * 2);
    tokens.set(this.#tokens);
    this.#tokens = tokens;
    const previous = new Int32Array(tokens.length + 1);
    previous.set(this.#previous);
    this.#previous = previous;
  }
}
