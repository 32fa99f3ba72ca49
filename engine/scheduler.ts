/**
 * The scheduler: which sequences take how many tokens in the next step.
 *
 * One token budget a step: first every decode, then prefill chunks, both in order of arrival. A newcomer is admitted
 * when its tokens so far and one more fit in free pages. When a decode finds no free page, the youngest sequence is
 * preempted: the oldest always advances, so every sequence ends.
 *
 * @module
 */

import type { PagePool } from "./page_pool.ts";
import type { Sequence } from "./sequence.ts";

export interface SchedulerLimits {
  readonly pageSize: number;
  /** Sequences of one step, and of those that hold pages. */
  readonly maxNumSeqs: number;
  /** Tokens of one step; >= maxNumSeqs, so that every decode fits. */
  readonly maxNumBatchedTokens: number;
  /** Logit edits of one step. */
  readonly maxLogitEdits: number;
}

export class Scheduler {
  /** Sequences with pages, in order of arrival. */
  readonly running: Sequence[] = [];
  /** Sequences without, in order of arrival; all of them arrived after those running. */
  readonly waiting: Sequence[] = [];
  numRequestsRunning = 0;
  numPreemptions = 0;
  readonly #pool: PagePool;
  readonly #limits: SchedulerLimits;
  readonly #editsNeeded: (sequence: Sequence) => number;
  readonly #batch: Sequence[] = [];
  #budget = 0;
  #numEditsReserved = 0;

  /** @param editsNeeded Most logit edits that a sequence may ever need; reserved while it runs. */
  constructor(pool: PagePool, limits: SchedulerLimits, editsNeeded: (sequence: Sequence) => number) {
    this.#pool = pool;
    this.#limits = limits;
    this.#editsNeeded = editsNeeded;
  }

  get isIdle(): boolean {
    return this.running.length === 0 && this.waiting.length === 0;
  }

  /** Queues a new sequence. */
  add(sequence: Sequence): void {
    this.waiting.push(sequence);
  }

  /** Chooses the next step: sequences with `queryLen` set. The array is reused by the next call. */
  schedule(): readonly Sequence[] {
    this.#batch.length = 0;
    this.#budget = this.#limits.maxNumBatchedTokens;
    // Preempting shortens `running` at its end, which may be the sequence that asked.
    for (let i = 0; i < this.running.length; i++) {
      const sequence = this.running[i]!;
      if (sequence.numPending === 1 && this.#makeRoom(sequence)) this.#take(sequence);
    }
    for (const sequence of this.running) {
      if (sequence.numPending > 1 && this.#budget > 0) this.#take(sequence);
    }
    // Nobody preempted above comes back here: what it gave is less than what it needs by the page that was taken.
    this.#admit();
    return this.#batch;
  }

  /** Takes a sequence out for good: its pages are free again. Without effect on one that has finished. */
  finish(sequence: Sequence): void {
    if (sequence.state === "running") {
      this.running.splice(this.running.indexOf(sequence), 1);
      this.#release(sequence);
    } else if (sequence.state === "waiting") {
      this.waiting.splice(this.waiting.indexOf(sequence), 1);
    }
    sequence.state = "finished";
  }

  #take(sequence: Sequence): void {
    sequence.queryLen = Math.min(sequence.numPending, this.#budget);
    this.#budget -= sequence.queryLen;
    this.#batch.push(sequence);
  }

  #admit(): void {
    const { waiting, running } = this;
    while (waiting.length > 0 && running.length < this.#limits.maxNumSeqs && this.#budget > 0) {
      const sequence = waiting[0]!;
      const numPages = this.#pagesToAdmit(sequence);
      const numEdits = this.#editsNeeded(sequence);
      if (numPages + this.#numGrowing() > this.#pool.numFree) return;
      if (numEdits + this.#numEditsReserved > this.#limits.maxLogitEdits) return;
      waiting.shift();
      running.push(sequence);
      sequence.state = "running";
      sequence.numAdmissions++;
      if (sequence.pages.length === 0) sequence.pages = new Int32Array(this.#numPages(sequence.maxKvTokens));
      while (sequence.numPages < numPages) sequence.pages[sequence.numPages++] = this.#pool.allocate();
      this.#numEditsReserved += numEdits;
      if (sequence.request.numRunning++ === 0) this.numRequestsRunning++;
      this.#take(sequence);
    }
  }

  /** Pages for all its tokens and the next, so that prefill never waits for a page halfway. */
  #pagesToAdmit(sequence: Sequence): number {
    return this.#numPages(Math.min(sequence.numTokens + 1, sequence.maxKvTokens));
  }

  /** Running sequences that will ask for more pages: a newcomer leaves one to each, or it would soon be preempted. */
  #numGrowing(): number {
    return this.running.reduce((n, sequence) => n + (sequence.numPages < sequence.pages.length ? 1 : 0), 0);
  }

  /** Gives a decode its next page if it needs one. False: the sequence itself was preempted. */
  #makeRoom(sequence: Sequence): boolean {
    if (this.#numPages(sequence.numTokens) <= sequence.numPages) return true;
    while (this.#pool.numFree === 0) {
      const youngest = this.running.at(-1)!;
      this.#preempt(youngest);
      if (youngest === sequence) return false;
    }
    sequence.pages[sequence.numPages++] = this.#pool.allocate();
    return true;
  }

  /** The youngest running goes back to the head of the queue; its tokens are computed again later. */
  #preempt(youngest: Sequence): void {
    this.running.pop();
    this.#release(youngest);
    youngest.state = "waiting";
    youngest.numComputed = 0;
    this.waiting.unshift(youngest);
    this.numPreemptions++;
  }

  #release(sequence: Sequence): void {
    while (sequence.numPages > 0) this.#pool.free(sequence.pages[--sequence.numPages]!);
    this.#numEditsReserved -= this.#editsNeeded(sequence);
    if (--sequence.request.numRunning === 0) this.numRequestsRunning--;
  }

  #numPages(numTokens: number): number {
    return Math.ceil(numTokens / this.#limits.pageSize);
  }
}
