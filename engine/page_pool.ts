/**
 * The page pool: which KV pages are free. It knows ids only; contents live in the native library.
 *
 * Invariants
 *  - Every page is either in the free list, once, or owned.
 *  - The free list is a stack: the page freed last is handed out first, while it is still warm in the caches.
 *  - Steps are synchronous, so a page may be freed as soon as a step has returned: nothing reads it any more.
 *
 * @module
 */

/** A fixed set of pages `0 .. numPages - 1`. */
export class PagePool {
  readonly numPages: number;
  /** `#free[0 .. #numFree - 1]`; the top of the stack is handed out next. */
  readonly #free: Int32Array;
  #numFree = 0;
  /** 1 for a page that somebody owns. */
  readonly #owned: Uint8Array;

  constructor(numPages: number) {
    this.numPages = numPages;
    this.#free = new Int32Array(numPages);
    this.#owned = new Uint8Array(numPages);
    this.#fill();
  }

  get numFree(): number {
    return this.#numFree;
  }

  get numOwned(): number {
    return this.numPages - this.#numFree;
  }

  /** Takes a free page. @throws {RangeError} There is none. */
  allocate(): number {
    if (this.#numFree === 0) throw new RangeError(`Cannot allocate a page: all ${this.numPages} are owned`);
    const page = this.#free[--this.#numFree]!;
    this.#owned[page] = 1;
    return page;
  }

  /** Gives a page back. @throws {RangeError} Nobody owns it. */
  free(page: number): void {
    if (this.#owned[page] !== 1) {
      throw new RangeError(`Cannot free a page: expected the id of an owned page, received ${page}`);
    }
    this.#owned[page] = 0;
    this.#free[this.#numFree++] = page;
  }

  /**
   * For when no sequence lives: puts pages back that were lost by a fault of ours, so that the fault costs a line in
   * the log and not the server.
   *
   * @returns How many were lost; 0 unless there is a bug.
   */
  reclaim(): number {
    const lost = this.numOwned;
    if (lost > 0) this.#fill();
    return lost;
  }

  #fill(): void {
    this.#owned.fill(0);
    for (let i = 0; i < this.numPages; i++) this.#free[i] = this.numPages - 1 - i;
    this.#numFree = this.numPages;
  }
}
