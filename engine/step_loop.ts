/**
 * The step loop's body: requests in, one step at a time, outcomes out. It knows nothing of threads.
 *
 * A token's way: `schedule()` picks its sequence, {@linkcode BatchWriter} writes it, the runner computes and samples
 * the next one, {@linkcode SequenceOutput} turns that into text, `takeOutcomes()` hands it out.
 *
 * With look-ahead the next step is submitted before the one under way is read, so that a GPU never waits for this thread:
 * ```
 *   submit n+1 (tokens of step n by row) │ finish n: read, detokenize, hand out │ submit n+2 │ finish n+1 ...
 * ```
 * A sequence that turns out to have ended with step n has a wasted row in step n+1: its result is dropped, and its pages
 * are held back until that step has finished.
 *
 * Every submitted request gets exactly one last outcome: it ends, is aborted, or fails.
 *
 * @module
 */

import { tokenFlag } from "../models/token_table.ts";
import type { TokenTable } from "../models/types.ts";
import { BatchWriter, countRows } from "./batch_writer.ts";
import { nowMs } from "./clock.ts";
import type { Counters } from "./counters.ts";
import { Deadlines } from "./deadlines.ts";
import { EngineError } from "./errors.ts";
import type { HostTier } from "./host_tier.ts";
import type { Growth } from "./growth_reserve.ts";
import type { KvScaleWindow } from "./kv_scale_window.ts";
import { LogitEdits, maxLogitEdits, stopIds } from "./logit_edits.ts";
import type { EngineMessage, Outcome } from "./messages.ts";
import type { StepBufferViews, StepRunner } from "./native.ts";
import type { PageGuard } from "./page_guard.ts";
import { PagePool } from "./page_pool.ts";
import { PrefixCache } from "./prefix_cache.ts";
import { type PromptScores, readScores } from "./prompt_scores.ts";
import { Scheduler } from "./scheduler.ts";
import { LiveRequest, type Sequence } from "./sequence.ts";
import { SequenceOutput } from "./sequence_output.ts";
import { type SpeculationOptions, Speculator } from "./speculator.ts";
import { DEADLINE_STOP_REASON, type Delta, type EndReason, type TokenLogprob } from "./types.ts";

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
}

/** A request as it comes from the HTTP thread. */
export type Submitted = Omit<Extract<EngineMessage, { type: "submit" }>, "type">;

/** A step under way. */
interface Flight {
  readonly buffer: StepBufferViews;
  readonly parts: readonly Part[];
  readonly startMs: number;
  /** The tokens of the step after it are known only when its guesses have been checked. */
  readonly hasGuesses: boolean;
}

/** A sequence's part of a step. */
interface Part {
  readonly sequence: Sequence;
  /** Its tokens computed before, and by the step, guesses left out. */
  readonly before: number;
  readonly queryLen: number;
  /** Of the result; null: the step does not sample for it. One more row follows for each guess. */
  readonly row: number | null;
  readonly numGuesses: number;
  /** Its scores in the step buffer, and the place in the prompt of the first. */
  readonly scores: { readonly from: number; readonly at: number; readonly count: number };
}

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
  readonly #live = new Map<number, LiveRequest>();
  readonly #speculator: Speculator | null;
  readonly #deadlines = new Deadlines<LiveRequest>();
  readonly #now: () => number;
  /** Requests with deltas not yet taken. */
  readonly #touched = new Set<LiveRequest>();
  #outcomes: Outcome[] = [];
  #lastEndMs = 0;
  readonly #numKvDtypes: number;
  /** Prompt tokens of first tokens, and tokens, since the counters were told. */
  #numPromptTokens = 0;
  #numGenerated = 0;

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
    this.#writers = [new BatchWriter(runner.buffers[0]), new BatchWriter(runner.buffers[1])];
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
    this.#live.set(request.key, request);
    this.#deadlines.set(request, deadlineMs ?? null);
    for (const sequence of request.sequences) this.#scheduler.add(sequence);
  }

  /** Ends a request now; its pages are free as soon as no step under way reads them. Without effect when it has ended. */
  abort(key: number): void {
    const request = this.#live.get(key);
    if (request === undefined) return;
    this.#cut(request, "abort", { finishReason: "abort", stopReason: null });
    this.#updateGauges();
  }

  /** Ends what has not ended of a request, with the text held back so far. */
  #cut(request: LiveRequest, reason: EndReason, last: Pick<Delta, "finishReason" | "stopReason">): void {
    const logprobs = request.sampling.logprobs === null ? null : [];
    for (const sequence of request.sequences) {
      if (sequence.state === "finished") continue;
      const text = sequence.text?.flush() ?? "";
      this.#touched.add(request);
      request.deltas.push({ index: sequence.index, text, tokenIds: [], logprobs, ...last });
      this.#finish(sequence, reason);
    }
  }

  /** Ends every request with an error: the engine cannot go on. */
  fail(message: string): void {
    for (const request of this.#live.values()) this.#failRequest(request, message);
    this.#updateGauges();
  }

  /**
   * Schedules and submits one step, if there is anything to run, and takes over the oldest one's results. With look-ahead
   * a step stays under way, unless no request is left. Requests past their deadline are ended before.
   *
   * @throws The runner's error; then nothing can be run any more, and `fail()` is due.
   */
  step(): void {
    for (const request of this.#deadlines.takeOverdue(this.#now())) {
      this.#cut(request, "deadline", { finishReason: "length", stopReason: DEADLINE_STOP_REASON });
    }
    if (this.#options.kvScaleWindow?.isOver) this.#endScaleWindow(this.#options.kvScaleWindow);
    if (this.#flights.length > 0 && !this.#mayLookAhead()) {
      this.#finishFlight();
    } else {
      const isSubmitted = this.#submitStep();
      if (!isSubmitted || !this.#options.looksAhead || this.#flights.length > 1) this.#finishFlight();
    }
    this.#endStep();
  }

  /** Takes over the results of the steps under way: what else uses the device may then do so. */
  drain(): void {
    this.#finishFlights();
    this.#endStep();
  }

  #endStep(): void {
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
    for (const { sequences } of this.#live.values()) for (const sequence of sequences) sequence.pageNames.length = 0;
  }

  /** Whether a step can be written while one is under way: nothing of it depends on the tokens of that one. */
  #mayLookAhead(): boolean {
    const { running, waiting, hasRoomToGrow } = this.#scheduler;
    if (!hasRoomToGrow || this.#flights[0]!.hasGuesses) return false;
    if (this.#speculator !== null && this.#speculator.plan(running).size > 0) return false;
    const isFree = (sequence: Sequence) => !sequence.edits?.dependsOnOutput;
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
    for (const sequence of batch) {
      if (sequence.edits === undefined) sequence.edits = this.#makeEdits(sequence.request);
    }
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
    for (const part of flight.parts) this.#apply(flight.buffer, part);
    const { counters } = this.#options;
    counters.add("promptTokensTotal", this.#numPromptTokens);
    counters.add("generationTokensTotal", this.#numGenerated);
    this.#numPromptTokens = 0;
    this.#numGenerated = 0;
    counters.add("stepsTotal", 1);
    counters.set("lastStepTimeMs", Date.now());
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
    for (const request of this.#touched) this.#push(request, { usage: null, error: null });
    for (const request of this.#touched) request.deltas = [];
    this.#touched.clear();
    const outcomes = this.#outcomes;
    this.#outcomes = [];
    return outcomes;
  }

  #makeEdits({ sampling, prompt }: LiveRequest): LogitEdits | null {
    return LogitEdits.for(sampling, prompt, stopIds(sampling, this.#options.eosTokenIds));
  }

  /** Takes over what a step did for a sequence. */
  #apply(buffer: StepBufferViews, { sequence, before, row, numGuesses, scores }: Part): void {
    // Ended while the step was under way, or a sister's failure has ended the request.
    if (sequence.state === "finished") return;
    this.#cache.share(sequence, before);
    if (scores.count > 0) this.#readScores(sequence.request, buffer, scores);
    if (row === null) return;
    sequence.numUnread--;
    sequence.request.numGuessed += numGuesses;
    this.#acceptRow(sequence, buffer, row);
    if (numGuesses > 0) this.#checkGuesses(sequence, numGuesses, { buffer, row });
  }

  /** Goes on with the rows after `row` while the guess before each is the token sampled in its place. */
  #checkGuesses(
    sequence: Sequence,
    numGuesses: number,
    { buffer, row }: { buffer: StepBufferViews; row: number },
  ): void {
    const { guesser, request } = sequence;
    let numKept = 0;
    while (
      numKept < numGuesses && sequence.state !== "finished" && guesser!.guesses[numKept] === sequence.output.at(-1)
    ) {
      numKept++;
      request.numKept++;
      this.#scheduler.keep(sequence);
      this.#cache.share(sequence, sequence.numComputed - 1);
      this.#acceptRow(sequence, buffer, row + numKept);
    }
    const { counters } = this.#options;
    counters.add("speculativeStepsTotal", 1);
    counters.add("guessedTokensTotal", numGuesses);
    counters.add("keptTokensTotal", numKept);
  }

  /** Takes over a token sampled. */
  #acceptRow(sequence: Sequence, buffer: StepBufferViews, row: number): void {
    const { request } = sequence;
    const token = buffer.sampled[row]!;
    if (token < 0 || token >= this.#options.vocabSize) {
      this.#cache.forget(sequence);
      this.#failRequest(
        request,
        `The model gave no valid token for request ${request.id}, received ${token}: its logits hold no number`,
      );
      return;
    }
    this.#accept(sequence, token, { buffer, row });
  }

  #readScores(request: LiveRequest, buffer: StepBufferViews, scores: Part["scores"]): void {
    readScores(request.scores!, buffer, scores);
    request.numScoresLeft -= scores.count;
    if (request.numScoresLeft === 0) this.#touched.add(request);
  }

  #accept(sequence: Sequence, token: number, at: { buffer: StepBufferViews; row: number }): void {
    const { request } = sequence;
    const { sampling } = request;
    if (request.numCompletionTokens++ === 0) this.#numPromptTokens += request.prompt.length;
    this.#numGenerated++;
    sequence.output.push(token);
    sequence.edits?.count(token);
    if (sequence.output.length === sampling.minTokens) sequence.edits?.liftBans();
    sequence.text ??= this.#makeOutput(request);
    const piece = sequence.text.push(token);
    this.#touched.add(request);
    request.deltas.push({
      index: sequence.index,
      text: piece.text,
      tokenIds: [token],
      logprobs: sampling.logprobs === null ? null : [logprob(token, sampling.logprobs, at)],
      finishReason: piece.finishReason,
      stopReason: piece.stopReason,
    });
    if (piece.finishReason !== null) this.#finish(sequence, piece.finishReason);
  }

  #makeOutput({ prompt, sampling }: LiveRequest): SequenceOutput {
    const { tokenTable: table, eosTokenIds } = this.#options;
    const isTextStart = prompt.every((id) => ((table.flags[id] ?? 0) & tokenFlag.special) !== 0);
    return new SequenceOutput({ table, sampling, eosTokenIds, isTextStart });
  }

  /** Ends a sequence, and its request with the last one. */
  #finish(sequence: Sequence, reason: EndReason): void {
    const { request } = sequence;
    this.#scheduler.finish(sequence);
    if (--request.numUnfinished > 0) return;
    this.#options.counters.countFinished(reason);
    this.#end(request, {
      usage: {
        promptTokens: request.prompt.length,
        completionTokens: request.numCompletionTokens,
        cachedTokens: request.numCachedTokens ?? 0,
        ...this.#speculator && { guesses: { kept: request.numKept, rejected: request.numGuessed - request.numKept } },
      },
      error: null,
    });
  }

  #failRequest(request: LiveRequest, error: string): void {
    for (const sequence of request.sequences) this.#scheduler.finish(sequence);
    this.#options.counters.countFinished("error");
    this.#end(request, { usage: null, error });
  }

  #end(request: LiveRequest, last: Pick<Outcome, "usage" | "error">): void {
    this.#push(request, last);
    this.#touched.delete(request);
    this.#live.delete(request.key);
    this.#deadlines.delete(request);
  }

  #push(request: LiveRequest, last: Pick<Outcome, "usage" | "error">): void {
    this.#outcomes.push({ key: request.key, promptScores: takeScores(request), deltas: request.deltas, ...last });
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

/** The prompt's scores, the first time that all of them are there. */
function takeScores(request: LiveRequest): PromptScores | null {
  if (request.scores === null || request.numScoresLeft > 0 || request.hasSentScores) return null;
  request.hasSentScores = true;
  return request.scores;
}

/** Sequences whose step was submitted: its tokens count as computed, its guesses not yet; one more as sampled. */
function advance(batch: readonly Sequence[]): Part[] {
  let numRows = 0;
  let numScores = 0;
  return batch.map((sequence) => {
    const { numComputed: before, numGuesses } = sequence;
    const queryLen = sequence.queryLen - numGuesses;
    const count = countRows(sequence);
    const row = count > 0 ? numRows : null;
    numRows += count;
    sequence.numComputed += queryLen;
    if (row !== null) {
      sequence.row = row;
      sequence.numUnread++;
    }
    const scores = { from: numScores, at: sequence.scoreBegin, count: sequence.numScores };
    numScores += sequence.numScores;
    return { sequence, before, queryLen, row, numGuesses, scores };
  });
}

/** What the step's row says of the token that it sampled. */
function logprob(
  tokenId: number,
  numTop: number,
  { buffer, row }: { buffer: StepBufferViews; row: number },
): TokenLogprob {
  const { maxLogprobs, sampledLogprob, topToken, topLogprob } = buffer;
  const top: { tokenId: number; logprob: number }[] = [];
  for (let i = row * maxLogprobs; i < row * maxLogprobs + numTop && topToken[i]! >= 0; i++) {
    top.push({ tokenId: topToken[i]!, logprob: topLogprob[i]! });
  }
  return { tokenId, logprob: sampledLogprob[row]!, top };
}
