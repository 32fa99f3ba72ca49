/**
 * Which requests are overdue. Asked before every step, so asking costs a comparison while none is; the requests are
 * searched when the first of them is, and at most every few milliseconds.
 *
 * @module
 */

/** Between two searches, in milliseconds: what ten thousand deadlines one after another may cost is bounded by it. */
const MIN_SEARCH_INTERVAL_MS = 2;

/** Deadlines by what they end. Times are milliseconds of one clock. */
export class Deadlines<T> {
  readonly #deadlineMs = new Map<T, number>();
  /** No search before this. */
  #nextMs = Infinity;

  /** Sets a deadline; null is none. */
  set(item: T, deadlineMs: number | null): void {
    if (deadlineMs === null) return;
    this.#deadlineMs.set(item, deadlineMs);
    this.#nextMs = Math.min(this.#nextMs, deadlineMs);
  }

  /** Drops an item's deadline, if it has one. */
  delete(item: T): void {
    this.#deadlineMs.delete(item);
  }

  /** Drops those that are due and returns them, in the order in which they were set. */
  takeOverdue(nowMs: number): readonly T[] {
    if (nowMs < this.#nextMs) return NONE;
    const overdue: T[] = [];
    let earliest = Infinity;
    for (const [item, deadlineMs] of this.#deadlineMs) {
      if (deadlineMs <= nowMs) overdue.push(item);
      else earliest = Math.min(earliest, deadlineMs);
    }
    for (const item of overdue) this.#deadlineMs.delete(item);
    this.#nextMs = Math.max(earliest, nowMs + MIN_SEARCH_INTERVAL_MS);
    return overdue;
  }
}

const NONE: readonly never[] = [];
