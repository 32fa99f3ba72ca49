/**
 * The requests without their end, and what there is to tell of them: their deltas, and exactly one last outcome each.
 *
 * @module
 */

import type { Counters } from "./counters.ts";
import { Deadlines } from "./deadlines.ts";
import type { Outcome } from "./messages.ts";
import type { LiveRequest, Sequence } from "./sequence.ts";
import { DEADLINE_STOP_REASON, type Delta, type EndReason } from "./types.ts";

export interface LiveRequestsOptions {
  readonly counters: Counters;
  /** Gives back what a sequence holds; without effect on one that has finished. */
  readonly release: (sequence: Sequence) => void;
  /** Whether usages tell what became of guesses. */
  readonly speculates: boolean;
}

export class LiveRequests {
  readonly #options: LiveRequestsOptions;
  readonly #byKey = new Map<number, LiveRequest>();
  readonly #deadlines = new Deadlines<LiveRequest>();
  /** Requests that had something to tell since outcomes were taken; some of it may have been told with their ends. */
  #touched: LiveRequest[] = [];
  #outcomes: Outcome[] = [];

  constructor(options: LiveRequestsOptions) {
    this.#options = options;
  }

  get size(): number {
    return this.#byKey.size;
  }

  [Symbol.iterator](): IterableIterator<LiveRequest> {
    return this.#byKey.values();
  }

  /** @param deadlineMs When to end it wherever it is, by the clock of {@linkcode endOverdue}; null: never. */
  add(request: LiveRequest, deadlineMs: number | null): void {
    this.#byKey.set(request.key, request);
    this.#deadlines.set(request, deadlineMs);
  }

  /** Ends a request as its client asks. False: it has ended. */
  abort(key: number): boolean {
    const request = this.#byKey.get(key);
    if (request === undefined) return false;
    this.#cut(request, "abort", { finishReason: "abort", stopReason: null });
    return true;
  }

  /** Ends the requests past their deadline. */
  endOverdue(nowMs: number): void {
    for (const request of this.#deadlines.takeOverdue(nowMs)) {
      this.#cut(request, "deadline", { finishReason: "length", stopReason: DEADLINE_STOP_REASON });
    }
  }

  /** What a step added to one of a request's sequences. */
  push(request: LiveRequest, delta: Delta): void {
    if (request.deltas !== null) {
      request.deltas.push(delta);
      return;
    }
    request.deltas = [delta];
    this.#touched.push(request);
  }

  /** All scores of its prompt are there. */
  tellScores(request: LiveRequest): void {
    this.#touched.push(request);
  }

  /** Ends a sequence, and its request with the last one. */
  finish(sequence: Sequence, reason: EndReason): void {
    const { request } = sequence;
    const { counters, release, speculates } = this.#options;
    release(sequence);
    if (--request.numUnfinished > 0) return;
    counters.countFinished(reason);
    this.#end(request, {
      usage: {
        promptTokens: request.prompt.length,
        completionTokens: request.numCompletionTokens,
        cachedTokens: request.numCachedTokens ?? 0,
        ...speculates && { guesses: { kept: request.numKept, rejected: request.numGuessed - request.numKept } },
      },
      error: null,
    });
  }

  /** Ends a request with an error. */
  fail(request: LiveRequest, error: string): void {
    for (const sequence of request.sequences) this.#options.release(sequence);
    this.#options.counters.countFinished("error");
    this.#end(request, { usage: null, error });
  }

  /** What happened since the last call, one outcome a request. */
  takeOutcomes(): readonly Outcome[] {
    for (const request of this.#touched) {
      if (request.deltas !== null || hasScores(request)) this.#tell(request, { usage: null, error: null });
    }
    this.#touched = [];
    const outcomes = this.#outcomes;
    this.#outcomes = [];
    return outcomes;
  }

  /** Ends what has not ended of a request, with the text held back so far. */
  #cut(request: LiveRequest, reason: EndReason, last: Pick<Delta, "finishReason" | "stopReason">): void {
    const logprobs = request.sampling.logprobs === null ? null : [];
    for (const sequence of request.sequences) {
      if (sequence.state === "finished") continue;
      const text = sequence.text?.flush() ?? "";
      this.push(request, { index: sequence.index, text, tokenIds: [], logprobs, ...last });
      this.finish(sequence, reason);
    }
  }

  #end(request: LiveRequest, last: Pick<Outcome, "usage" | "error">): void {
    this.#tell(request, last);
    this.#byKey.delete(request.key);
    this.#deadlines.delete(request);
  }

  #tell(request: LiveRequest, { usage, error }: Pick<Outcome, "usage" | "error">): void {
    const promptScores = hasScores(request) ? request.scores : null;
    if (promptScores !== null) request.hasSentScores = true;
    this.#outcomes.push({ key: request.key, promptScores, deltas: request.deltas ?? [], usage, error });
    request.deltas = null;
  }
}

/** Whether all of its prompt's scores are there, and have not been told. */
function hasScores({ scores, numScoresLeft, hasSentScores }: LiveRequest): boolean {
  return scores !== null && numScoresLeft === 0 && !hasSentScores;
}
