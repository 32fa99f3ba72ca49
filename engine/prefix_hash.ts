/**
 * Names of full pages by everything that decides their contents: the KV fingerprint, the request's salt, and every token
 * up to the page's end. Each name is chained to the one before, so equal names mean equal beginnings.
 *
 * The 128 bits are mixed as MurmurHash3 does and keyed at random for each process, so that no client can prepare a
 * collision; the page pool compares token ids beside.
 *
 * @module
 */

/** 128 bits as eight UTF-16 units: what a Map looks up fastest. */
export type PageName = string;

export class PrefixHasher {
  readonly #seed = new Uint32Array(4);
  readonly #state = new Uint32Array(4);

  /**
   * @param fingerprint Model, dtypes, scales and page size: what else decides a page's contents.
   * @param key 4 random words; drawn if left out.
   */
  constructor(fingerprint: string, key: Uint32Array = crypto.getRandomValues(new Uint32Array(4))) {
    this.#state.set(key);
    this.#mixText(fingerprint);
    this.#seed.set(this.#state);
  }

  /** What a prompt's first page is chained to. Requests of different salts share no page. */
  root(salt: string): PageName {
    this.#state.set(this.#seed);
    if (salt !== "") this.#mixText(salt);
    return this.#name();
  }

  /** The name of a page that holds these tokens and follows the page of a name. */
  next(before: PageName, tokens: Int32Array): PageName {
    for (let i = 0; i < 4; i++) {
      this.#state[i] = before.charCodeAt(2 * i) | (before.charCodeAt(2 * i + 1) << 16);
    }
    for (let i = 0; i < tokens.length; i++) this.#mix(tokens[i]!, i & 3);
    this.#finalize(tokens.length);
    return this.#name();
  }

  #mixText(text: string): void {
    for (let i = 0; i < text.length; i++) this.#mix(text.charCodeAt(i), i & 3);
    this.#finalize(text.length);
  }

  #mix(value: number, lane: number): void {
    let word = Math.imul(value, 0xcc9e2d51);
    word = Math.imul((word << 15) | (word >>> 17), 0x1b873593);
    const hash = this.#state[lane]! ^ word;
    const sum = (((hash << 13) | (hash >>> 19)) + this.#state[(lane + 1) & 3]!) | 0;
    this.#state[lane] = Math.imul(sum, 5) + 0xe6546b64;
  }

  /** Every bit of a state decides every bit of the next. */
  #finalize(length: number): void {
    const state = this.#state;
    state[0]! ^= length;
    for (let round = 0; round < 2; round++) {
      for (let i = 0; i < 4; i++) state[i]! += state[(i + 1) & 3]!;
      for (let i = 0; i < 4; i++) {
        let word = state[i]!;
        word = Math.imul(word ^ (word >>> 16), 0x85ebca6b);
        word = Math.imul(word ^ (word >>> 13), 0xc2b2ae35);
        state[i] = word ^ (word >>> 16);
      }
    }
  }

  #name(): PageName {
    const [a = 0, b = 0, c = 0, d = 0] = this.#state;
    return String.fromCharCode(
      a & 0xffff,
      a >>> 16,
      b & 0xffff,
      b >>> 16,
      c & 0xffff,
      c >>> 16,
      d & 0xffff,
      d >>> 16,
    );
  }
}
