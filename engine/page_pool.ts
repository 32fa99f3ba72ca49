/**
 * The page pool: which KV pages are free, who shares the others, and which full pages can be found again by name. It
 * knows ids only; contents live in the native library.
 *
 * ```
 *            allocate()                free(), last owner
 *   free  ─────────────>  owned  ──────────────────────────>  free      (no name)
 *                        ^      \
 *          acquire()    /        `──────────────────────────>  idle      (named: a later request may find it)
 *                 idle ´                                        │ oldest first, when no page is free
 *                                                               `────>  allocate()
 * ```
 *
 * Invariants
 *  - Every page is free, idle, owned (by `refs` owners) or held back, exactly one of them.
 *  - A page freed while a step is under way that may read it is held back until that step has finished.
 *  - A sequence frees its last page first, so the idle list's oldest pages are the ends of prefixes: a prefix is
 *    given up from its leaves.
 *  - Only full pages have names, and a page with a name is never written again.
 *
 * @module
 */

import { MAX_KV_DTYPES } from "../ffi/enums.ts";
import type { PageGuard } from "./page_guard.ts";
import type { PageName } from "./prefix_hash.ts";

const NONE = -1;

/** @param tokens Of the page; not to be kept. */
export type EvictionListener = (page: number, name: PageName, tokens: Int32Array) => void;

/** A fixed set of pages `0 .. numPages - 1`. */
export class PagePool {
  readonly numPages: number;
  readonly #pageSize: number;
  readonly #onEvict: EvictionListener;
  readonly #guard: PageGuard | null;
  /** `#free[0 .. #numFree - 1]` is a stack: the page freed last is handed out first, still warm in the caches. */
  readonly #free: Int32Array;
  #numFree = 0;
  /** Owners of each page. */
  readonly #refs: Int32Array;
  readonly #names: (PageName | null)[];
  readonly #byName = new Map<PageName, number>();
  /** Room for the tokens of named pages, pageSize each, and how many they are. */
  readonly #tokens: Int32Array;
  readonly #numTokens: Uint8Array;
  /** What each page was allocated for, and how many of each that are owned. */
  readonly #kvIndex: Uint8Array;
  readonly #numOwnedOf = new Int32Array(MAX_KV_DTYPES);
  /** The idle pages, oldest first: a list through entry numPages, which is no page. */
  readonly #older: Int32Array;
  readonly #newer: Int32Array;
  #numIdle = 0;
  #numStepsBegun = 0;
  #numStepsEnded = 0;
  /** Pages without owner that the step of this number may still read, in order of steps. */
  #heldBack: { readonly page: number; readonly step: number }[] = [];

  /**
   * @param pageSize Tokens of a page at most.
   * @param onEvict Told of an idle page whose name is about to be void, before the page is used again.
   * @param guard Told of names, for finding pages that change while they have one.
   */
  constructor(
    numPages: number,
    pageSize: number,
    onEvict: EvictionListener = () => {},
    guard: PageGuard | null = null,
  ) {
    this.numPages = numPages;
    this.#pageSize = pageSize;
    this.#onEvict = onEvict;
    this.#guard = guard;
    this.#free = new Int32Array(numPages);
    this.#refs = new Int32Array(numPages);
    this.#names = new Array<PageName | null>(numPages).fill(null);
    this.#tokens = new Int32Array(numPages * pageSize);
    this.#numTokens = new Uint8Array(numPages);
    this.#kvIndex = new Uint8Array(numPages);
    this.#older = new Int32Array(numPages + 1);
    this.#newer = new Int32Array(numPages + 1);
    this.#clear();
  }

  /** Pages that `allocate()` can give: free and idle ones. */
  get numFree(): number {
    return this.#numFree + this.#numIdle;
  }

  /** Of {@linkcode numOwned}, those allocated for a KV dtype. */
  numOwnedOf(kvIndex: number): number {
    return this.#numOwnedOf[kvIndex]!;
  }

  /** Pages that it cannot: owned or held back. */
  get numOwned(): number {
    return this.numPages - this.numFree;
  }

  /** Takes a free page, or the oldest idle one, whose name is then void. @throws {RangeError} There is none. */
  allocate(kvIndex = 0): number {
    let page: number;
    if (this.#numFree > 0) {
      page = this.#free[--this.#numFree]!;
    } else if (this.#numIdle > 0) {
      page = this.#newer[this.numPages]!;
      this.#unlink(page);
      const begin = page * this.#pageSize;
      this.#onEvict(page, this.#names[page]!, this.#tokens.subarray(begin, begin + this.#numTokens[page]!));
      this.#forget(page);
    } else {
      throw new RangeError(`Cannot allocate a page: all ${this.numPages} are owned`);
    }
    this.#refs[page] = 1;
    this.#kvIndex[page] = kvIndex;
    this.#numOwnedOf[kvIndex]!++;
    return page;
  }

  /** Gives up one owner's share of a page. @throws {RangeError} Nobody owns it. */
  free(page: number): void {
    if (!(this.#refs[page]! > 0)) {
      throw new RangeError(`Cannot free a page: expected the id of an owned page, received ${page}`);
    }
    if (--this.#refs[page]! > 0) return;
    if (this.#numStepsBegun > this.#numStepsEnded) this.#heldBack.push({ page, step: this.#numStepsBegun });
    else this.#putBack(page);
  }

  /** The page of a name, if its tokens are these. */
  find(name: PageName, tokens: Int32Array): number | null {
    const page = this.#byName.get(name);
    if (page === undefined) return null;
    const begin = page * this.#pageSize;
    for (let i = 0; i < tokens.length; i++) if (this.#tokens[begin + i] !== tokens[i]) return null;
    return page;
  }

  /** Whether a page found by name counts as free: then acquiring it takes one of {@linkcode numFree}. */
  isIdle(page: number): boolean {
    return this.#refs[page] === 0 && this.#newer[page] !== NONE;
  }

  /** Adds an owner to a page found by name. */
  acquire(page: number): void {
    this.#guard?.check(page);
    if (this.isIdle(page)) {
      this.#unlink(page);
      this.#numOwnedOf[this.#kvIndex[page]!]!++;
    } else if (this.#refs[page] === 0) this.#heldBack = this.#heldBack.filter((held) => held.page !== page);
    this.#refs[page]!++;
  }

  /** Names an owned page that is full. Without effect where another page has that name: one copy is enough. */
  name(page: number, name: PageName, tokens: Int32Array): void {
    if (this.#byName.has(name) || this.#names[page] !== null) return;
    this.#byName.set(name, page);
    this.#names[page] = name;
    this.#tokens.set(tokens, page * this.#pageSize);
    this.#numTokens[page] = tokens.length;
    this.#guard?.named(page);
  }

  /** Voids an owned page's name: nobody finds it any more. */
  forget(page: number): void {
    this.#forget(page);
  }

  /** Voids every page's name; idle pages are free then. */
  forgetAll(): void {
    for (let page = 0; page < this.numPages; page++) {
      const isIdle = this.isIdle(page);
      this.#forget(page);
      if (!isIdle) continue;
      this.#unlink(page);
      this.#free[this.#numFree++] = page;
    }
  }

  /** A step has been submitted: what is freed from now on waits for it. */
  beginStep(): void {
    this.#numStepsBegun++;
  }

  /** The oldest step under way has finished. */
  endStep(): void {
    this.#numStepsEnded++;
    const held = this.#heldBack;
    let count = 0;
    while (count < held.length && held[count]!.step <= this.#numStepsEnded) this.#putBack(held[count++]!.page);
    if (count > 0) this.#heldBack = held.slice(count);
  }

  /**
   * For when no sequence lives and no step is under way: counts every page and every owner, and puts back what was lost
   * by a fault of ours, so that the fault costs a line in the log (and the prefix cache) and not the server.
   *
   * @returns How many pages were lost, and what else is wrong; 0 unless there is a bug.
   */
  reclaim(): number {
    this.#guard?.checkAll();
    const lost = this.#numFaults();
    if (lost > 0) this.#clear();
    return lost;
  }

  #numFaults(): number {
    const seen = new Uint8Array(this.numPages);
    let faults = this.#byName.size === this.#numIdle ? 0 : 1;
    if (this.#numOwnedOf.reduce((sum, count) => sum + count) !== this.numOwned) faults++;
    for (let i = 0; i < this.#numFree; i++) {
      const page = this.#free[i]!;
      seen[page]!++;
      if (this.#names[page] !== null) faults++;
    }
    for (let page = this.#newer[this.numPages]!; page !== this.numPages; page = this.#newer[page]!) {
      seen[page]!++;
      const name = this.#names[page];
      if (name === null || name === undefined || this.#byName.get(name) !== page) faults++;
    }
    for (let page = 0; page < this.numPages; page++) if (seen[page] !== 1 || this.#refs[page] !== 0) faults++;
    return faults;
  }

  #putBack(page: number): void {
    this.#numOwnedOf[this.#kvIndex[page]!]!--;
    if (this.#names[page] === null) {
      this.#free[this.#numFree++] = page;
      return;
    }
    const end = this.numPages;
    const newest = this.#older[end]!;
    this.#older[page] = newest;
    this.#newer[page] = end;
    this.#newer[newest] = page;
    this.#older[end] = page;
    this.#numIdle++;
  }

  #unlink(page: number): void {
    this.#newer[this.#older[page]!] = this.#newer[page]!;
    this.#older[this.#newer[page]!] = this.#older[page]!;
    this.#newer[page] = NONE;
    this.#numIdle--;
  }

  #forget(page: number): void {
    const name = this.#names[page];
    if (name === null || name === undefined) return;
    this.#byName.delete(name);
    this.#names[page] = null;
    this.#guard?.unnamed(page);
  }

  #clear(): void {
    this.#refs.fill(0);
    this.#numOwnedOf.fill(0);
    this.#names.fill(null);
    this.#byName.clear();
    this.#heldBack = [];
    this.#newer.fill(NONE);
    this.#newer[this.numPages] = this.numPages;
    this.#older[this.numPages] = this.numPages;
    this.#numIdle = 0;
    for (let i = 0; i < this.numPages; i++) this.#free[i] = this.numPages - 1 - i;
    this.#numFree = this.numPages;
  }
}
