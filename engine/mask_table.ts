/**
 * Gives token masks their places in the step buffers' tables: the same in both buffers and in every step, as long as no
 * other mask needs the place. So a device that keeps what it has been sent needs each mask once.
 *
 * ```
 *  place        0    1    2    3
 *  step n       a    b    c    -        a and c are used
 *  step n + 1   a    b    c    d        c and d are used: the one new mask is that in place 3
 *  step n + 2   e    b    c    d        the place of a, whose last use is the longest ago but for b's
 * ```
 *
 * @module
 */

export class MaskTable {
  /** One past the last place used by the step. */
  numPlaces = 0;
  /** The places that the step has given to other masks lie from `firstNew` to before `endNew`. */
  firstNew = 0;
  endNew = 0;
  readonly #masks: (Uint32Array | null)[];
  readonly #placeOf = new Map<Uint32Array, number>();
  /** Of each place: the step that used it last. */
  readonly #lastUse: Float64Array;
  #step = 0;

  /** @param size Places: no step may use more masks. */
  constructor(size: number) {
    this.#masks = Array.from({ length: size }, () => null);
    this.#lastUse = new Float64Array(size);
  }

  /** Begins a step. */
  begin(): void {
    this.#step++;
    this.numPlaces = 0;
    this.firstNew = 0;
    this.endNew = 0;
  }

  /** The place of a mask that the step uses; masks are told apart by identity. */
  place(mask: Uint32Array): number {
    const place = this.#placeOf.get(mask) ?? this.#give(mask);
    this.#lastUse[place] = this.#step;
    this.numPlaces = Math.max(this.numPlaces, place + 1);
    return place;
  }

  /** What stands in a place; null: nothing yet. */
  at(place: number): Uint32Array | null {
    return this.#masks[place]!;
  }

  /** Gives a mask the place whose last use is the longest ago. */
  #give(mask: Uint32Array): number {
    const place = this.#lastUse.indexOf(Math.min(...this.#lastUse));
    const before = this.#masks[place]!;
    if (before !== null) this.#placeOf.delete(before);
    this.#masks[place] = mask;
    this.#placeOf.set(mask, place);
    this.firstNew = this.endNew === 0 ? place : Math.min(this.firstNew, place);
    this.endNew = Math.max(this.endNew, place + 1);
    return place;
  }
}
