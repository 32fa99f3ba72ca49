/**
 * A rate as it is now: what is old counts less and less.
 *
 * @module
 */

/** Seconds of measurement after which what lies before counts half. */
const HALF_SECONDS = 2;

/** Amounts a second, of what was measured last. */
export class RateMeter {
  #amount = 0;
  #seconds = 0;

  /** Takes note that `amount` took so long; nothing where it took no time that could be measured. */
  add(amount: number, seconds: number): void {
    if (!(seconds > 0)) return;
    this.#amount += amount;
    this.#seconds += seconds;
    if (this.#seconds < 2 * HALF_SECONDS) return;
    this.#amount /= 2;
    this.#seconds /= 2;
  }

  /** Null before anything was measured. */
  get perSecond(): number | null {
    return this.#seconds === 0 ? null : this.#amount / this.#seconds;
  }
}
