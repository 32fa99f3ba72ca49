/**
 * The step loop's body: requests in, one step at a time, outcomes out. It knows nothing of threads.
 *
 * A token's way: `schedule()` picks its sequence, {@linkcode BatchWriter} writes it, the runner computes and samples
 * the next one, {@linkcode SequenceOutput} turns that into text, `takeOutcomes()` hands it out.
 *
 * Every submitted request gets exactly one last outcome: it ends, is aborted, or fails.
 *
 * @module
 */

import { tokenFlag } from "../models/token_table.ts";
import type { TokenTable } from "../models/types.ts";
import { BatchWriter, samples } from "./batch_writer.ts";
import type { Counters } from "./counters.ts";
import { EngineError } from "./errors.ts";
import { LogitEdits, maxLogitEdits, stopIds } from "./logit_edits.ts";
import type { Outcome } from "./messages.ts";
import type { StepRunner } from "./native.ts";
import { PagePool } from "./page_pool.ts";
import { Scheduler } from "./scheduler.ts";
import { LiveRequest, type Sequence } from "./sequence.ts";
import { SequenceOutput } from "./sequence_output.ts";
import type { FinishReason, SamplingParams, TokenLogprob } from "./types.ts";

export interface StepLoopOptions {
  readonly pageSize: number;
  readonly numPages: number;
  readonly vocabSize: number;
  readonly tokenTable: TokenTable;
  readonly eosTokenIds: readonly number[];
  readonly counters: Counters;
  /** Told of faults that cost no request. */
  readonly warn: (message: string) => void;
}

export class StepLoop {
  readonly #runner: StepRunner;
  readonly #options: StepLoopOptions;
  readonly #pool: PagePool;
  readonly #scheduler: Scheduler;
  readonly #writer: BatchWriter;
  readonly #live = new Map<number, LiveRequest>();
  /** Requests with deltas not yet taken. */
  readonly #touched = new Set<LiveRequest>();
  #outcomes: Outcome[] = [];

  constructor(runner: StepRunner, options: StepLoopOptions) {
    const { maxNumSeqs, maxNumBatchedTokens, maxLogitEdits: maxEdits } = runner.buffer;
    if (maxNumBatchedTokens < maxNumSeqs) {
      throw new RangeError(
        `Cannot schedule: the token budget must be at least max_num_seqs = ${maxNumSeqs}, received ` +
          `${maxNumBatchedTokens}`,
      );
    }
    this.#runner = runner;
    this.#options = options;
    this.#pool = new PagePool(options.numPages);
    const limits = { pageSize: options.pageSize, maxNumSeqs, maxNumBatchedTokens, maxLogitEdits: maxEdits };
    this.#scheduler = new Scheduler(this.#pool, limits, ({ request: { sampling, prompt } }) =>
      maxLogitEdits(sampling, {
        promptTokens: prompt.length,
        numEosTokenIds: options.eosTokenIds.length,
        vocabSize: options.vocabSize,
      }));
    this.#writer = new BatchWriter(runner.buffer);
  }

  /** Whether no request is left. */
  get isIdle(): boolean {
    return this.#live.size === 0;
  }

  get numFreePages(): number {
    return this.#pool.numFree;
  }

  /** Takes a request that `checkRequest()` has let pass. */
  submit(submitted: { key: number; id: string; prompt: Int32Array; sampling: SamplingParams }): void {
    const request = new LiveRequest(submitted.key, submitted.id, submitted.prompt, submitted.sampling);
    this.#live.set(request.key, request);
    for (const sequence of request.sequences) this.#scheduler.add(sequence);
  }

  /** Ends a request now; its pages are free at once. Without effect when it has ended. */
  abort(key: number): void {
    const request = this.#live.get(key);
    if (request === undefined) return;
    const logprobs = request.sampling.logprobs === null ? null : [];
    for (const sequence of request.sequences) {
      if (sequence.state === "finished") continue;
      const text = sequence.text?.flush() ?? "";
      this.#touched.add(request);
      request.deltas.push({
        index: sequence.index,
        text,
        tokenIds: [],
        logprobs,
        finishReason: "abort",
        stopReason: null,
      });
      this.#finish(sequence, "abort");
    }
    this.#updateGauges();
  }

  /** Ends every request with an error: the engine cannot go on. */
  fail(message: string): void {
    for (const request of this.#live.values()) this.#failRequest(request, message);
    this.#updateGauges();
  }

  /**
   * Schedules and runs one step, if there is anything to run.
   *
   * @throws The runner's error; then nothing can be run any more, and `fail()` is due.
   */
  step(): void {
    const batch = this.#scheduler.schedule();
    if (batch.length === 0) {
      if (this.isIdle) return;
      throw new EngineError(
        `No sequence can be scheduled: ${this.#live.size} requests wait and ${this.#pool.numFree} of ` +
          `${this.#pool.numPages} pages are free`,
      );
    }
    for (const sequence of batch) {
      if (sequence.edits === undefined) sequence.edits = this.#makeEdits(sequence.request);
    }
    this.#writer.write(batch);
    this.#runner.step();
    for (let row = 0; row < batch.length; row++) this.#apply(batch[row]!, row);
    const { counters } = this.#options;
    counters.add("stepsTotal", 1);
    counters.set("lastStepTimeMs", Date.now());
    this.#updateGauges();
  }

  /** What happened since the last call, one outcome a request. */
  takeOutcomes(): readonly Outcome[] {
    for (const { key, deltas } of this.#touched) this.#outcomes.push({ key, deltas, usage: null, error: null });
    for (const request of this.#touched) request.deltas = [];
    this.#touched.clear();
    const outcomes = this.#outcomes;
    this.#outcomes = [];
    return outcomes;
  }

  #makeEdits({ sampling, prompt }: LiveRequest): LogitEdits | null {
    return LogitEdits.for(sampling, prompt, stopIds(sampling, this.#options.eosTokenIds));
  }

  /** Takes over what the step did for the sequence in a row of the buffer. */
  #apply(sequence: Sequence, row: number): void {
    // Finished within this step: a sister's failure has ended the request.
    if (sequence.state === "finished") return;
    const hasSampled = samples(sequence);
    sequence.numComputed += sequence.queryLen;
    if (!hasSampled) return;
    const { request } = sequence;
    const token = this.#runner.buffer.sampled[row]!;
    if (token < 0 || token >= this.#options.vocabSize) {
      this.#failRequest(
        request,
        `The model gave no valid token for request ${request.id}, received ${token}: its logits hold no number`,
      );
      return;
    }
    this.#accept(sequence, token, row);
  }

  #accept(sequence: Sequence, token: number, row: number): void {
    const { request } = sequence;
    const { sampling } = request;
    const { counters } = this.#options;
    if (request.numCompletionTokens++ === 0) counters.add("promptTokensTotal", request.prompt.length);
    counters.add("generationTokensTotal", 1);
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
      logprobs: sampling.logprobs === null ? null : [this.#logprob(token, row, sampling.logprobs)],
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

  #logprob(tokenId: number, row: number, numTop: number): TokenLogprob {
    const { maxLogprobs, sampledLogprob, topToken, topLogprob } = this.#runner.buffer;
    const top: { tokenId: number; logprob: number }[] = [];
    for (let i = row * maxLogprobs; i < row * maxLogprobs + numTop && topToken[i]! >= 0; i++) {
      top.push({ tokenId: topToken[i]!, logprob: topLogprob[i]! });
    }
    return { tokenId, logprob: sampledLogprob[row]!, top };
  }

  /** Ends a sequence, and its request with the last one. */
  #finish(sequence: Sequence, reason: FinishReason): void {
    const { request } = sequence;
    this.#scheduler.finish(sequence);
    if (--request.numUnfinished > 0) return;
    this.#options.counters.countFinished(reason);
    this.#end(request, {
      usage: {
        promptTokens: request.prompt.length,
        completionTokens: request.numCompletionTokens,
        cachedTokens: 0,
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
    this.#outcomes.push({ key: request.key, deltas: request.deltas, ...last });
    this.#touched.delete(request);
    this.#live.delete(request.key);
    if (!this.isIdle) return;
    const lost = this.#pool.reclaim();
    if (lost > 0) {
      this.#options.warn(`${lost} pages were not given back by requests that had ended; they are free again`);
    }
  }

  #updateGauges(): void {
    const { counters } = this.#options;
    counters.set("numRequestsRunning", this.#scheduler.numRequestsRunning);
    counters.set("numPagesOwned", this.#pool.numOwned);
    counters.set("preemptionsTotal", this.#scheduler.numPreemptions);
  }
}
