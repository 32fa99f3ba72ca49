/**
 * Keeps an output to one of some texts: a tree of their tokens, along which the output moves. The tokens that may come next
 * are the branches of the place it has come to, and the tokens that end a sequence where a text is complete.
 *
 * ```
 *  texts    "red"  "reddish"  "blue"        end: </s>
 *  tree     root ─ red ─┬─ </s>             masks: of root {red, blue}; of red {</s>, dish}; ...
 *                │      └─ dish ─ </s>
 *                └─ blue ─ </s>
 * ```
 * Each place has a mask of its own, made when it is first needed and the same for all sequences of the request, so that a
 * device is sent it once.
 *
 * @module
 */

/** A place in the tree. */
export class ChoicePlace {
  readonly #next = new Map<number, ChoicePlace>();
  readonly #ends: ReadonlySet<number>;
  #isComplete = false;
  #mask: Uint32Array | null = null;

  /** @param ends Tokens that end a sequence, at least one. */
  private constructor(ends: ReadonlySet<number>) {
    this.#ends = ends;
  }

  /** The root of a tree of texts, each given by its tokens. */
  static root(choices: readonly (readonly number[])[], ends: ReadonlySet<number>): ChoicePlace {
    const root = new ChoicePlace(ends);
    for (const choice of choices) {
      let place: ChoicePlace = root;
      for (const token of choice) {
        let next = place.#next.get(token);
        if (next === undefined) place.#next.set(token, next = new ChoicePlace(ends));
        place = next;
      }
      place.#isComplete = true;
    }
    return root;
  }

  /** Where a token leads; null after one that ends the sequence. */
  after(token: number): ChoicePlace | null {
    return this.#next.get(token) ?? null;
  }

  /** The tokens that may come next, as bit t % 32 of word t / 32. */
  mask(numWords: number): Uint32Array {
    if (this.#mask !== null) return this.#mask;
    const mask = this.#mask = new Uint32Array(numWords);
    const allow = (token: number) => mask[token >>> 5]! |= 1 << (token & 31);
    for (const token of this.#next.keys()) allow(token);
    if (this.#isComplete) { for (const token of this.#ends) allow(token); }
    return mask;
  }
}
