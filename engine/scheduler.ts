/**
 * The scheduler: which sequences take how many tokens in the next step.
 *
 * One token budget a step: first every decode, then prefill chunks, both by priority (lower first), then in order of
 * arrival; then newcomers in the order of {@linkcode WaitingQueue}. A step that decodes may have a smaller budget, so that
 * prompts neither stall the decodes nor wait for them. A long prompt takes more than half of the budget only where no
 * short one needs it, and they go one at a time ({@linkcode LongPrompts}). A newcomer is admitted when its tokens so far
 * and one more fit in free pages, beside those that it finds in the prefix cache and those that
 * {@linkcode growthReserve} keeps. A request's further sequences wait until one has computed the prompt. When a decode
 * finds no free page, the youngest sequence of the lowest priority is preempted: the first in order always advances, so
 * every sequence ends.
 *
 * A sequence whose beginning comes back from the host tier waits in its place until it is there, while others go on.
 *
 * A second budget bounds the prompt tokens that a step scores: a chunk ends where it is used up.
 *
 * @module
 */

import { type Growth, growthReserve } from "./growth_reserve.ts";
import type { HostTier } from "./host_tier.ts";
import { LongPrompts } from "./long_prompts.ts";
import type { PagePool } from "./page_pool.ts";
import type { Hit, PrefixCache } from "./prefix_cache.ts";
import type { Sequence } from "./sequence.ts";
import { insertInOrder, removeInOrder } from "./sequence_order.ts";
import { WaitingQueue } from "./waiting_queue.ts";

export interface SchedulerLimits {
  /** Tokens of a page, by kv index. */
  readonly pageSizes: readonly number[];
  /** Sequences of one step, and of those that hold pages. */
  readonly maxNumSeqs: number;
  /** Tokens of one step; >= maxNumSeqs, so that every decode fits. */
  readonly maxNumBatchedTokens: number;
  /** Tokens of a step in which so many sequences decode, those included; maxNumBatchedTokens if left out, and at most. */
  readonly mixedStepTokens?: ((numDecodes: number) => number) | undefined;
  /** As {@linkcode LongPrompts} has it. */
  readonly longPromptTokens?: number | undefined;
  /** Logit edits of one step. */
  readonly maxLogitEdits: number;
  /** Prompt tokens whose log-probabilities one step tells. */
  readonly maxScores: number;
  /** Pages that a newcomer must leave free; {@linkcode growthReserve} if left out. */
  readonly reserve?: ((growth: Growth) => number) | undefined;
}

export class Scheduler {
  /** Sequences with pages, in order of priority and arrival. */
  readonly running: Sequence[] = [];
  /** Sequences without. */
  readonly waiting = new WaitingQueue((sequence) => !this.#waits(sequence));
  readonly #longPrompts: LongPrompts;
  numRequestsRunning = 0;
  numPreemptions = 0;
  readonly #pool: PagePool;
  readonly #limits: SchedulerLimits;
  readonly #editsNeeded: (sequence: Sequence) => number;
  readonly #cache: PrefixCache;
  readonly #hostTier: HostTier | null;
  readonly #batch: Sequence[] = [];
  #budget = 0;
  #scoreBudget = 0;
  #numEditsReserved = 0;
  /** Of the running sequences: those that may ask for more pages, and how many all of them may. */
  #numGrowing = 0;
  #numPagesLeft = 0;
  readonly #reserve: (growth: Growth) => number;

  /**
   * @param editsNeeded Most logit edits that a sequence may ever need; reserved while it runs.
   */
  constructor(
    pool: PagePool,
    limits: SchedulerLimits,
    editsNeeded: (sequence: Sequence) => number,
    cache: PrefixCache,
    hostTier: HostTier | null = null,
  ) {
    this.#cache = cache;
    this.#hostTier = hostTier;
    this.#pool = pool;
    this.#limits = limits;
    this.#editsNeeded = editsNeeded;
    this.#reserve = limits.reserve ?? growthReserve;
    this.#longPrompts = new LongPrompts({
      ...limits,
      isComputed: (sequence) => !this.#isArriving(sequence) && sequence.request.numScored === Infinity,
      numHitTokens: (sequence) => this.#numHitTokens(sequence, cache.find(sequence)),
    });
  }

  get isIdle(): boolean {
    return this.running.length === 0 && this.waiting.length === 0;
  }

  /** Queues a new sequence. */
  add(sequence: Sequence): void {
    this.waiting.add(sequence);
  }

  /** Whether every running sequence can go on in the next step without taking pages from another. */
  get hasRoomToGrow(): boolean {
    let numNeeded = 0;
    for (const sequence of this.running) if (!sequence.isFull && this.#needsPage(sequence)) numNeeded++;
    return numNeeded <= this.#pool.numFree;
  }

  /** Chooses the next step: sequences with `queryLen` set. The array is reused by the next call. */
  schedule(): readonly Sequence[] {
    this.#batch.length = 0;
    this.#budget = this.#limits.maxNumBatchedTokens;
    this.#scoreBudget = this.#limits.maxScores;
    this.#hostTier?.poll();
    // Preempting shortens `running` at its end, which may be the sequence that asked.
    for (let i = 0; i < this.running.length; i++) {
      const sequence = this.running[i]!;
      if (sequence.numPending > 1 || sequence.isFull || this.#isArriving(sequence)) continue;
      if (this.#makeRoom(sequence)) this.#take(sequence);
    }
    this.#keepPace(this.#batch.length);
    this.#longPrompts.begin(this.running);
    this.#prefill();
    if (this.#batch.length === 0) this.#takeArriving();
    this.#hostTier?.flush();
    // The step buffer wants sequences of one KV dtype side by side.
    if (this.#limits.pageSizes.length > 1) this.#batch.sort((a, b) => a.request.kvIndex - b.request.kvIndex);
    return this.#batch;
  }

  /** Lowers the budget to what a step has in which so many sequences decode. */
  #keepPace(numDecodes: number): void {
    const { mixedStepTokens } = this.#limits;
    if (numDecodes === 0 || mixedStepTokens === undefined) return;
    this.#budget = Math.max(0, Math.min(this.#budget, mixedStepTokens(numDecodes) - numDecodes));
  }

  /**
   * Prompts under way, and newcomers. The first holds half of the budget, the others what they need of the rest, in their
   * order: none of them is long; newcomers come next; what they leave goes to the first.
   * ```
   *  held by order     |----- a -----|- b -|- c -|     |
   *  newcomers                                   |- d -|
   *  taken             |----- a -----|- b -|- c -|- d -|     or, without d, a's is longer
   * ```
   */
  #prefill(): void {
    const holds: { readonly sequence: Sequence; readonly numTokens: number }[] = [];
    let isFirst = true;
    for (const sequence of this.running) {
      if (sequence.numPending === 1 || this.#budget === 0 || this.#isArriving(sequence)) continue;
      const numTokens = Math.min(sequence.numPending, isFirst ? Math.ceil(this.#budget / 2) : this.#budget);
      isFirst = false;
      // Scores have a budget of their own, which goes by order.
      if (sequence.request.numScored < Infinity) {
        this.#take(sequence, numTokens);
      } else {
        holds.push({ sequence, numTokens });
        this.#budget -= numTokens;
      }
    }
    const numBefore = this.#batch.length;
    // Nobody preempted by a decode comes back here: what it gave is less than what it needs by the page that was taken.
    this.#admit();
    if (holds.length === 0) return;
    const newcomers = this.#batch.splice(numBefore);
    for (const { sequence, numTokens } of holds) {
      this.#budget += numTokens;
      this.#take(sequence);
    }
    this.#batch.push(...newcomers);
  }

  /** Whether pages of it are still on their way from the host: the other sequences go on without it. */
  #isArriving({ arrival }: Sequence): boolean {
    return arrival > 0 && this.#hostTier!.isUnderWay(arrival);
  }

  /** With nothing else to run, the step itself waits for them. */
  #takeArriving(): void {
    for (const sequence of this.running) {
      if (sequence.isFull || this.#budget === 0) continue;
      if (sequence.numPending > 1 || this.#makeRoom(sequence)) this.#take(sequence);
    }
  }

  /** Adds guesses to a decode of the step just scheduled: `count`, or as many as its budget and the sequence's pages hold. */
  extend(sequence: Sequence, count: number): void {
    const room = sequence.numPages * this.#limits.pageSizes[sequence.request.kvIndex]! - sequence.numTokens;
    sequence.numGuesses = Math.max(0, Math.min(count, room, this.#budget));
    sequence.queryLen += sequence.numGuesses;
    this.#budget -= sequence.numGuesses;
  }

  /** Counts a guess that was right as computed; its tenant pays for it, and for the token sampled after it. */
  keep(sequence: Sequence): void {
    sequence.numComputed++;
    sequence.numEverComputed = Math.max(sequence.numEverComputed, sequence.numComputed);
    this.waiting.charge(sequence.request, 2);
  }

  /** Takes a sequence out for good: its pages are free again. Without effect on one that has finished. */
  finish(sequence: Sequence): void {
    if (sequence.state === "running") {
      removeInOrder(this.running, sequence);
      this.#release(sequence);
    } else if (sequence.state === "waiting") {
      this.waiting.remove(sequence);
    } else {
      return;
    }
    sequence.state = "finished";
    this.waiting.leave(sequence);
  }

  /** Takes all pages from all sequences: what they hold is void. No step may be under way. */
  preemptAll(): void {
    for (let sequence = this.running.at(-1); sequence !== undefined; sequence = this.running.at(-1)) {
      this.#preempt(sequence);
    }
  }

  /** @param limit Most tokens of it. */
  #take(sequence: Sequence, limit = this.#budget): void {
    const { request, numComputed } = sequence;
    let end = numComputed + Math.min(sequence.numPending, limit);
    const begin = request.numScored;
    const numScores = Math.max(0, Math.min(Math.min(end, request.prompt.length - 1) - begin, this.#scoreBudget));
    // No token is computed before those that come before it have been scored.
    if (begin + numScores < request.prompt.length - 1) end = Math.min(end, begin + numScores);
    if (end === numComputed) return;
    sequence.queryLen = end - numComputed;
    sequence.numGuesses = 0;
    sequence.scoreBegin = begin;
    sequence.numScores = numScores;
    request.countScores(numScores);
    this.#budget -= sequence.queryLen;
    this.#scoreBudget -= numScores;
    this.#batch.push(sequence);
    this.#account(sequence);
  }

  /** What its tenant pays for: each token computed, but once, and each sampled. */
  #account(sequence: Sequence): void {
    const { queryLen, numComputed } = sequence;
    const numFirst = Math.max(0, numComputed + queryLen - Math.max(numComputed, sequence.numEverComputed));
    sequence.numEverComputed = Math.max(sequence.numEverComputed, numComputed + queryLen);
    this.waiting.charge(sequence.request, numFirst + (queryLen === sequence.numPending ? 1 : 0));
  }

  /** Whether a step has nothing for it: another computes its prompt, no scores are left, or a long prompt is under way. */
  #waits(sequence: Sequence): boolean {
    const { leader, numScored } = sequence.request;
    return leader !== null || (numScored < Infinity && this.#scoreBudget === 0) ||
      this.#longPrompts.isHeldBack(sequence);
  }

  #admit(): void {
    const { waiting, running } = this;
    while (running.length < this.#limits.maxNumSeqs && this.#budget > 0) {
      const sequence = waiting.next();
      if (sequence === null) return;
      const numPages = this.#pagesToAdmit(sequence);
      const numEdits = this.#editsNeeded(sequence);
      const hits = this.#cache.find(sequence);
      // A hit that somebody owns costs nothing.
      const numTaken = numPages -
        hits.reduce((n, hit) => n + ("page" in hit && !this.#pool.isIdle(hit.page) ? 1 : 0), 0);
      if (numTaken + this.#numReserved() > this.#pool.numFree) return;
      if (numEdits + this.#numEditsReserved > this.#limits.maxLogitEdits) return;
      waiting.admit(sequence);
      insertInOrder(running, sequence);
      sequence.state = "running";
      sequence.numAdmissions++;
      if (sequence.pages.length === 0) sequence.pages = new Int32Array(this.#numPages(sequence.maxKvTokens, sequence));
      this.#takeHits(sequence, hits);
      while (sequence.numPages < numPages) {
        sequence.pages[sequence.numPages++] = this.#pool.allocate(sequence.request.kvIndex);
      }
      this.#countGrowth(sequence, 1);
      this.#numEditsReserved += numEdits;
      if (sequence.request.numRunning++ === 0) this.numRequestsRunning++;
      if (this.#isArriving(sequence)) continue;
      this.#take(sequence);
      this.#longPrompts.admit(sequence, sequence.numPending - sequence.queryLen);
    }
  }

  /** Begins a sequence with pages that others have computed. Before any is allocated: that could void their names. */
  #takeHits(sequence: Sequence, hits: readonly Hit[]): void {
    sequence.arrival = this.#cache.take(hits, sequence);
    sequence.numPages = hits.length;
    sequence.numComputed = this.#numHitTokens(sequence, hits);
    this.#cache.begin(sequence, hits.length);
  }

  #numHitTokens({ request: { kvIndex } }: Sequence, hits: readonly Hit[]): number {
    return hits.length * this.#limits.pageSizes[kvIndex]!;
  }

  /** Pages for all its tokens and the next, so that prefill never waits for a page halfway. */
  #pagesToAdmit(sequence: Sequence): number {
    return this.#numPages(Math.min(sequence.numTokens + 1, sequence.maxKvTokens), sequence);
  }

  /** Pages that a newcomer leaves to those that run, or it would soon be preempted. */
  #numReserved(): number {
    return this.#reserve({
      numGrowing: this.#numGrowing,
      numPagesLeft: this.#numPagesLeft,
      numPages: this.#pool.numPages,
      pageSize: Math.min(...this.#limits.pageSizes),
    });
  }

  /** @param sign 1 for a sequence that now counts among those that run, -1 for one that no longer does. */
  #countGrowth({ pages, numPages }: Sequence, sign: 1 | -1): void {
    if (numPages === pages.length) return;
    this.#numGrowing += sign;
    this.#numPagesLeft += sign * (pages.length - numPages);
  }

  /** Gives a decode its next page if it needs one. False: the sequence itself was preempted. */
  #makeRoom(sequence: Sequence): boolean {
    if (!this.#needsPage(sequence)) return true;
    while (this.#pool.numFree === 0) {
      const youngest = this.running.at(-1)!;
      this.#preempt(youngest);
      if (youngest === sequence) return false;
    }
    this.#countGrowth(sequence, -1);
    sequence.pages[sequence.numPages++] = this.#pool.allocate(sequence.request.kvIndex);
    this.#countGrowth(sequence, 1);
    return true;
  }

  /** The youngest running goes back to the queue; what the prefix cache loses of it is computed again later. */
  #preempt(youngest: Sequence): void {
    this.running.pop();
    this.#release(youngest);
    youngest.state = "waiting";
    youngest.numComputed = 0;
    this.waiting.addPreempted(youngest);
    this.numPreemptions++;
  }

  #release(sequence: Sequence): void {
    this.#countGrowth(sequence, -1);
    while (sequence.numPages > 0) this.#pool.free(sequence.pages[--sequence.numPages]!);
    this.#numEditsReserved -= this.#editsNeeded(sequence);
    if (sequence.request.leader === sequence) sequence.request.leader = null;
    if (--sequence.request.numRunning === 0) this.numRequestsRunning--;
  }

  #needsPage(sequence: Sequence): boolean {
    return this.#numPages(sequence.numTokens, sequence) > sequence.numPages;
  }

  #numPages(numTokens: number, { request: { kvIndex } }: Sequence): number {
    return Math.ceil(numTokens / this.#limits.pageSizes[kvIndex]!);
  }
}
