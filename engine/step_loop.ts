/**
 * The step loop's body: requests in, one step at a time, outcomes out. It knows nothing of threads.
 *
 * A token's way: `schedule()` picks its sequence, {@linkcode BatchWriter} writes it, the runner computes and samples
 * the next one, {@linkcode StepResults} takes that over as text, `takeOutcomes()` hands it out.
 *
 * With look-ahead the next step is submitted before the one under way is read, so that a GPU never waits for this thread:
 * ```
 *   submit n+1 (tokens of step n by row) │ finish n: read, detokenize, hand out │ submit n+2 │ finish n+1 ...
 * ```
 * A sequence that turns out to have ended with step n has a wasted row in step n+1: its result is dropped, and its pages
 * are held back until that step has finished. Where a step depends on the tokens of the one under way, it is submitted as
 * soon as they are read:
 * ```
 *   finish n: read, detokenize │ submit n+1 │ hand out │ finish n+1 ...
 * ```
 *
 * Every submitted request gets exactly one last outcome: it ends, is aborted, or fails.
 *
 * @module
 */

import type { TokenTable } from "../models/types.ts";
import { BatchWriter } from "./batch_writer.ts";
import { ChoicePlace } from "./choice_tree.ts";
import { nowMs } from "./clock.ts";
import type { Counters } from "./counters.ts";
import { EngineError } from "./errors.ts";
import { advance, type Flight } from "./flight.ts";
import type { HostTier } from "./host_tier.ts";
import type { Growth } from "./growth_reserve.ts";
import type { KvScaleWindow } from "./kv_scale_window.ts";
import { LogitEdits, maxLogitEdits, stopIds } from "./logit_edits.ts";
import { LiveRequests } from "./live_requests.ts";
import { MaskTable } from "./mask_table.ts";
import type { EngineMessage, Outcome } from "./messages.ts";
import type { StepRunner } from "./native.ts";
import type { PageGuard } from "./page_guard.ts";
import { PagePool } from "./page_pool.ts";
import { PrefixCache } from "./prefix_cache.ts";
import { Scheduler } from "./scheduler.ts";
import { LiveRequest, type Sequence } from "./sequence.ts";
import { type SpeculationOptions, Speculator } from "./speculator.ts";
import { StepResults } from "./step_results.ts";

export interface StepLoopOptions {
  readonly pageSize: number;
  /** Of the KV dtypes of kv index 1, 2, ...; left out: there are none. */
  readonly morePageSizes?: readonly number[];
  readonly numPages: number;
  readonly vocabSize: number;
  readonly tokenTable: TokenTable;
  readonly eosTokenIds: readonly number[];
  readonly counters: Counters;
  /** What beside the tokens decides a page's contents; null = no page serves another request. */
  readonly kvFingerprint: string | null;
  /** Where the scales of an FP8 cache are calculated from the first tokens. */
  readonly kvScaleWindow?: KvScaleWindow | null;
  /** Keeps the pages that the pool gives up; null or left out: nothing does. Needs prefix caching. */
  readonly hostTier?: HostTier | null;
  /** Finds pages that change while they are shared; null: nobody looks. */
  readonly pageGuard?: PageGuard | null;
  /** Submit a step before the last one's tokens are read: for devices that run on by themselves. */
  readonly looksAhead: boolean;
  /** Guess tokens and check several in one step; null or left out: no. */
  readonly speculation?: SpeculationOptions | null;
  /** Told of faults that cost no request. */
  readonly warn: (message: string) => void;
  /** The clock of deadlines; `nowMs()` if left out. */
  readonly now?: () => number;
  /** Pages that a newcomer must leave free; `growthReserve()` if left out. */
  readonly reserve?: ((growth: Growth) => number) | undefined;
  /** Tokens of a step in which so many sequences decode; as many as any step has if left out. */
  readonly mixedStepTokens?: ((numDecodes: number) => number) | undefined;
}

/** A request as it comes from the HTTP thread. */
export type Submitted = Omit<Extract<EngineMessage, { type: "submit" }>, "type">;

export class StepLoop {
  readonly #runner: StepRunner;
  readonly #options: StepLoopOptions;
  readonly #pool: PagePool;
  readonly #scheduler: Scheduler;
  readonly #cache: PrefixCache;
  readonly #hostTier: HostTier | null;
  readonly #writers: readonly [BatchWriter, BatchWriter];
  /** Oldest first: none between steps, or one with look-ahead. */
  readonly #flights: Flight[] = [];
  /** Of the buffer that the next step is written to. */
  #turn: 0 | 1 = 0;
  readonly #live: LiveRequests;
  readonly #results: StepResults;
  readonly #speculator: Speculator | null;
  readonly #now: () => number;
  #lastEndMs = 0;
  readonly #numKvDtypes: number;

  constructor(runner: StepRunner, options: StepLoopOptions) {
    const { maxNumSeqs, maxNumBatchedTokens, maxSamples, maxLogitEdits: maxEdits, maxScores } = runner.buffers[0];
    if (maxNumBatchedTokens < maxNumSeqs) {
      throw new RangeError(
        `Cannot schedule: the token budget must be at least max_num_seqs = ${maxNumSeqs}, received ` +
          `${maxNumBatchedTokens}`,
      );
    }
    this.#runner = runner;
    this.#options = options;
    this.#now = options.now ?? nowMs;
    this.#numKvDtypes = 1 + (options.morePageSizes?.length ?? 0);
    const { kvFingerprint: fingerprint } = options;
    const pageSizes = [options.pageSize, ...options.morePageSizes ?? []];
    const hostTier = this.#hostTier = options.hostTier ?? null;
    const { pageGuard = null } = options;
    this.#pool = new PagePool(options.numPages, Math.max(...pageSizes), hostTier?.save.bind(hostTier), pageGuard);
    this.#cache = new PrefixCache(this.#pool, { pageSizes, fingerprint, hostTier });
    const limits = {
      pageSizes,
      maxNumSeqs,
      maxNumBatchedTokens,
      maxLogitEdits: maxEdits,
      reserve: options.reserve,
      mixedStepTokens: options.mixedStepTokens,
      maxScores,
    };
    const editsNeeded = ({ request: { sampling, prompt } }: Sequence) =>
      maxLogitEdits(sampling, {
        promptTokens: prompt.length,
        numEosTokenIds: options.eosTokenIds.length,
        vocabSize: options.vocabSize,
      });
    this.#scheduler = new Scheduler(this.#pool, limits, editsNeeded, this.#cache, hostTier);
    this.#speculator = options.speculation ? new Speculator(options.speculation, maxSamples) : null;
    this.#live = new LiveRequests({
      counters: options.counters,
      release: (sequence) => this.#scheduler.finish(sequence),
      speculates: this.#speculator !== null,
    });
    this.#results = new StepResults(options, this.#live, this.#scheduler, this.#cache);
    const masks = new MaskTable(runner.buffers[0].maxTokenMasks);
    this.#writers = [new BatchWriter(runner.buffers[0], masks), new BatchWriter(runner.buffers[1], masks)];
  }

  /** Whether no request is left, and no step under way. */
  get isIdle(): boolean {
    return this.#live.size === 0 && this.#flights.length === 0;
  }

  get numFreePages(): number {
    return this.#pool.numFree;
  }

  /** Takes a request that `checkRequest()` has let pass. */
  submit({ key, id, prompt, sampling, priority, cacheSalt, deadlineMs, tenant, kvIndex }: Submitted): void {
    const request = new LiveRequest(key, id, prompt, sampling, priority, cacheSalt, tenant, kvIndex);
    if (sampling.choices !== null) this.#keepToChoices(request, sampling.choices);
    this.#live.add(request, deadlineMs ?? null);
    for (const sequence of request.sequences) this.#scheduler.add(sequence);
  }

  #keepToChoices({ sequences, sampling }: LiveRequest, choices: readonly (readonly number[])[]): void {
    const root = ChoicePlace.root(choices, stopIds(sampling, this.#options.eosTokenIds));
    for (const sequence of sequences) sequence.choice = root;
  }

  /** Ends a request now; its pages are free as soon as no step under way reads them. Without effect when it has ended. */
  abort(key: number): void {
    if (this.#live.abort(key)) this.#updateGauges();
  }

  /** Ends every request with an error: the engine cannot go on. */
  fail(message: string): void {
    for (const request of this.#live) this.#live.fail(request, message);
    this.#updateGauges();
  }

  /**
   * Schedules and submits one step, if there is anything to run, and takes over the oldest one's results. With look-ahead
   * a step stays under way, unless no request is left. Requests past their deadline are ended before.
   *
   * @throws The runner's error; then nothing can be run any more, and `fail()` is due.
   */
  step(): void {
    this.#live.endOverdue(this.#now());
    if (this.#options.kvScaleWindow?.isOver) this.#endScaleWindow(this.#options.kvScaleWindow);
    if (this.#flights.length > 0 && !this.#mayLookAhead()) {
      this.#finishFlight();
      // The device has nothing to do: its next step comes before what this one did is handed out.
      if (this.#live.size > 0) this.#submitStep();
    } else {
      const isSubmitted = this.#submitStep();
      if (!isSubmitted || !this.#options.looksAhead || this.#flights.length > 1) this.#finishFlight();
    }
    this.#options.pageGuard?.settle();
    if (this.#live.size === 0) this.#rest();
    this.#updateGauges();
  }

  /** Sets the calculated scales. What was stored with others is void: those who have pages compute their tokens again. */
  #endScaleWindow(window: KvScaleWindow): void {
    this.#finishFlights();
    const { fingerprint, isChanged } = window.end();
    if (isChanged) this.#scheduler.preemptAll();
    this.#cache.restart(`${this.#options.kvFingerprint} ${fingerprint}`);
    for (const { sequences } of this.#live) for (const sequence of sequences) sequence.pageNames.length = 0;
  }

  /** Whether a step can be written while one is under way: nothing of it depends on the tokens of that one. */
  #mayLookAhead(): boolean {
    const { running, waiting, hasRoomToGrow } = this.#scheduler;
    if (!hasRoomToGrow || this.#flights[0]!.hasGuesses) return false;
    if (this.#speculator !== null && this.#speculator.plan(running).size > 0) return false;
    const isFree = (sequence: Sequence) => sequence.numUnread === 0 || sequence.isFull || !sequence.dependsOnOutput;
    return running.every(isFree) && (waiting.length > 0 || running.some((sequence) => !sequence.isFull));
  }

  /** No request is left: what is under way is of no use to anyone, and every page must be back. */
  #rest(): void {
    this.#finishFlights();
    if (this.#options.kvScaleWindow?.isOver) this.#endScaleWindow(this.#options.kvScaleWindow);
    const lost = this.#pool.reclaim();
    if (lost > 0) {
      this.#options.warn(`${lost} pages were not given back by requests that had ended; they are free again`);
    }
  }

  /** False: there is nothing to run now. */
  #submitStep(): boolean {
    const batch = this.#scheduler.schedule();
    if (batch.length === 0) {
      if (this.#live.size === 0 || this.#flights.length > 0) return false;
      throw new EngineError(
        `No sequence can be scheduled: ${this.#live.size} requests wait and ${this.#pool.numFree} of ` +
          `${this.#pool.numPages} pages are free`,
      );
    }
    for (const sequence of batch) this.#prepareEdits(sequence);
    if (this.#flights.length === 0) this.#addGuesses(batch);
    const buffer = this.#runner.buffers[this.#turn];
    this.#writers[this.#turn].write(batch);
    const startMs = this.#now();
    this.#runner.submit(buffer);
    this.#turn = this.#turn === 0 ? 1 : 0;
    this.#pool.beginStep();
    this.#options.kvScaleWindow?.count(batch.reduce((sum, { queryLen }) => sum + queryLen, 0));
    const parts = advance(batch);
    this.#flights.push({ buffer, parts, startMs, hasGuesses: parts.some(({ numGuesses }) => numGuesses > 0) });
    return true;
  }

  #addGuesses(batch: readonly Sequence[]): void {
    if (this.#speculator === null) return;
    for (const [sequence, count] of this.#speculator.plan(batch)) this.#scheduler.extend(sequence, count);
  }

  #finishFlights(): void {
    while (this.#flights.length > 0) this.#finishFlight();
  }

  #finishFlight(): void {
    const flight = this.#flights.shift();
    if (flight === undefined) return;
    this.#runner.finish(flight.buffer);
    this.#pool.endStep();
    this.#measure(flight);
    this.#results.apply(flight);
  }

  /** Steps that mostly prefill tell what it costs to compute tokens. Those that overlap are timed from end to end. */
  #measure({ startMs, parts }: Flight): void {
    const endMs = this.#now();
    const seconds = (endMs - Math.max(startMs, this.#lastEndMs)) / 1000;
    this.#lastEndMs = endMs;
    if (this.#hostTier === null) return;
    const numTokens = parts.reduce((n, { queryLen }) => n + queryLen, 0);
    const numPrefill = parts.reduce((n, { queryLen }) => n + (queryLen > 1 ? queryLen : 0), 0);
    if (2 * numPrefill >= numTokens) this.#hostTier.countPrefill(numPrefill, seconds);
  }

  /** What happened since the last call, one outcome a request. */
  takeOutcomes(): readonly Outcome[] {
    return this.#live.takeOutcomes();
  }

  /** Makes a sequence's edits, or brings them to the token that the next step samples. */
  #prepareEdits(sequence: Sequence): void {
    const { sampling, prompt } = sequence.request;
    if (sequence.edits === undefined) {
      sequence.edits = LogitEdits.for(sampling, prompt, stopIds(sampling, this.#options.eosTokenIds));
    }
    if (sequence.edits?.bansStops && sequence.numSampled >= sampling.minTokens) sequence.edits.liftBans();
  }

  #updateGauges(): void {
    const { counters } = this.#options;
    counters.set("numRequestsRunning", this.#scheduler.numRequestsRunning);
    counters.set("numPagesOwned", this.#pool.numOwned);
    for (let kvIndex = 0; kvIndex < this.#numKvDtypes; kvIndex++) {
      counters.setPagesOwnedOf(kvIndex, this.#pool.numOwnedOf(kvIndex));
    }
    counters.set("preemptionsTotal", this.#scheduler.numPreemptions);
    counters.set("prefixCacheQueriesTotal", this.#cache.numQueried);
    counters.set("prefixCacheHitsTotal", this.#cache.numHit);
    if (this.#hostTier === null) return;
    this.#hostTier.poll();
    const { numKept, numRestoredTokens, totals } = this.#hostTier;
    counters.set("numHostPagesKept", numKept);
    counters.set("kvRestoredTokensTotal", numRestoredTokens);
    counters.set("kvSavedBytesTotal", totals.savedBytes);
    counters.set("kvRestoredBytesTotal", totals.restoredBytes);
  }
}
