/**
 * The host tier: pages that the page pool gives up are kept in host memory, as long as there is room, and come back when
 * that is cheaper than computing their tokens again.
 *
 * ```
 *   page pool                                   host tier
 *   idle page, evicted  ── save ──────────────> newest of the list     (the oldest is given up where it is full)
 *   page of a newcomer  <───────────── restore ─ stays, newest again
 * ```
 *
 * Copies are queued while a step is scheduled and handed on before it is submitted, in their order. On a GPU they run
 * beside the step under way, which uses none of these pages: a page that is evicted is idle, and one that is restored
 * into was free. The library makes a step wait for the pages that it uses.
 *
 * Invariants
 *  - Every host page is free, holds one named page, or is being restored from by the schedule that is being made.
 *  - What a page is found by is what the page pool finds it by: its name and its tokens.
 *
 * @module
 */

import type { PageMover, TransferTotals } from "./native.ts";
import type { PageName } from "./prefix_hash.ts";
import { RateMeter } from "./rate_meter.ts";

export interface HostTierOptions {
  /** Host pages. */
  readonly numHostPages: number;
  /** Pages of the pool. */
  readonly numPages: number;
  /** Bytes of a page, all layers. */
  readonly pageBytes: number;
}

/** A page in host memory. */
export interface HostPage {
  readonly name: PageName;
  readonly tokens: Int32Array;
  readonly hostPage: number;
}

/** Copies in one direction, in their order. */
interface Run {
  readonly saves: boolean;
  readonly pages: number[];
  readonly hostPages: number[];
}

/** Every so many times that a restore would seem dearer it is made all the same: rates change, and are measured so. */
const PROBE_EVERY = 32;

const NOTHING: TransferTotals = {
  numSubmitted: 0,
  numFinished: 0,
  savedBytes: 0,
  savedSeconds: 0,
  restoredBytes: 0,
  restoredSeconds: 0,
};

export class HostTier {
  /** Tokens restored since the start. */
  numRestoredTokens = 0;
  readonly #mover: PageMover;
  readonly #pageBytes: number;
  /** Host pages that hold nothing. */
  readonly #free: number[];
  /** Oldest first. */
  readonly #kept = new Map<PageName, HostPage>();
  /** Of each page of the pool, the number of the transfer that restores it. */
  readonly #arrivals: Float64Array;
  readonly #queue: Run[] = [];
  readonly #savingRate = new RateMeter();
  readonly #restoringRate = new RateMeter();
  readonly #prefillRate = new RateMeter();
  #totals = NOTHING;
  #numSubmitted = 0;
  #numRefused = 0;

  constructor(mover: PageMover, { numHostPages, numPages, pageBytes }: HostTierOptions) {
    this.#mover = mover;
    this.#pageBytes = pageBytes;
    this.#free = Array.from({ length: numHostPages }, (_, i) => numHostPages - 1 - i);
    this.#arrivals = new Float64Array(numPages);
  }

  /** Pages kept now. */
  get numKept(): number {
    return this.#kept.size;
  }

  /** What has been copied so far, as of the last {@linkcode poll}. */
  get totals(): TransferTotals {
    return this.#totals;
  }

  /** Keeps what an evicted page of the pool holds, before the page is used again. */
  save(page: number, name: PageName, tokens: Int32Array): void {
    const kept = this.#kept.get(name);
    if (kept !== undefined) {
      this.#kept.delete(name);
      this.#kept.set(name, kept);
      return;
    }
    const hostPage = this.#free.pop() ?? this.#giveUpOldest();
    if (hostPage === null) return;
    this.#enqueue(true, page, hostPage);
    this.#kept.set(name, { name, tokens: tokens.slice(), hostPage });
  }

  /** The page of a name, if its tokens are these. */
  find(name: PageName, tokens: Int32Array): HostPage | null {
    const kept = this.#kept.get(name);
    if (kept === undefined || kept.tokens.length !== tokens.length) return null;
    return kept.tokens.every((token, i) => token === tokens[i]) ? kept : null;
  }

  /** Whether restoring is cheaper than computing, by what was measured last. */
  isWorthRestoring(numPages: number, numTokens: number): boolean {
    const bytesPerSecond = this.#restoringRate.perSecond ?? this.#savingRate.perSecond;
    const tokensPerSecond = this.#prefillRate.perSecond;
    if (bytesPerSecond === null || tokensPerSecond === null) return true;
    if (numPages * this.#pageBytes / bytesPerSecond <= numTokens / tokensPerSecond) return true;
    return ++this.#numRefused % PROBE_EVERY === 0;
  }

  /** Keeps host pages from being given up until they have been restored. */
  hold(found: readonly HostPage[]): void {
    for (const { name } of found) this.#kept.delete(name);
  }

  /** Copies a page that {@linkcode hold} holds to a free page of the pool. */
  restore(found: HostPage, page: number): void {
    this.#enqueue(false, page, found.hostPage);
    this.#kept.set(found.name, found);
    this.#arrivals[page] = this.#numSubmitted + this.#queue.length;
    this.numRestoredTokens += found.tokens.length;
  }

  /** The transfer after which a page of the pool holds what it was restored for; 0: it does. */
  arrivalOf(page: number): number {
    const arrival = this.#arrivals[page]!;
    return arrival > this.#totals.numFinished ? arrival : 0;
  }

  /** Whether a transfer has not finished, as of the last {@linkcode poll}. */
  isUnderWay(transfer: number): boolean {
    return transfer > this.#totals.numFinished;
  }

  /** Voids a name. */
  forget(name: PageName): void {
    const kept = this.#kept.get(name);
    if (kept === undefined) return;
    this.#kept.delete(name);
    this.#free.push(kept.hostPage);
  }

  forgetAll(): void {
    for (const { hostPage } of this.#kept.values()) this.#free.push(hostPage);
    this.#kept.clear();
  }

  /** Hands the queued copies to the library. Before the step that uses their pages is submitted. */
  flush(): void {
    for (const { saves, pages, hostPages } of this.#queue) {
      const [from, to] = [Int32Array.from(pages), Int32Array.from(hostPages)];
      if (saves) this.#mover.savePages(from, to);
      else this.#mover.restorePages(from, to);
      this.#numSubmitted++;
    }
    this.#queue.length = 0;
  }

  /** Takes note of the transfers that have finished since. */
  poll(): void {
    if (this.#totals.numFinished === this.#numSubmitted) return;
    const { savedBytes, savedSeconds, restoredBytes, restoredSeconds } = this.#totals;
    this.#totals = this.#mover.transferStats();
    this.#savingRate.add(this.#totals.savedBytes - savedBytes, this.#totals.savedSeconds - savedSeconds);
    this.#restoringRate.add(this.#totals.restoredBytes - restoredBytes, this.#totals.restoredSeconds - restoredSeconds);
  }

  /** Takes note of a step of prefill. */
  countPrefill(numTokens: number, seconds: number): void {
    this.#prefillRate.add(numTokens, seconds);
  }

  /** Null where all host pages are held. */
  #giveUpOldest(): number | null {
    const [oldest] = this.#kept.values();
    if (oldest === undefined) return null;
    this.#kept.delete(oldest.name);
    return oldest.hostPage;
  }

  #enqueue(saves: boolean, page: number, hostPage: number): void {
    let run = this.#queue.at(-1);
    if (run === undefined || run.saves !== saves) {
      run = { saves, pages: [], hostPages: [] };
      this.#queue.push(run);
    }
    run.pages.push(page);
    run.hostPages.push(hostPage);
  }
}
