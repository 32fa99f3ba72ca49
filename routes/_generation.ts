/**
 * A request's prompts in the engine: queued together, ended together, aborted together. Its latencies are measured
 * here, for streams and whole responses alike.
 *
 * @module
 */

import {
  DEADLINE_STOP_REASON,
  type Delta,
  type GenerationRequest,
  type PromptLogprob,
  type Usage,
} from "../engine/types.ts";
import { EngineError } from "../engine/errors.ts";
import type { Server } from "./_server.ts";
import { deadlineExceeded } from "./errors.ts";

/** Receives a generation's output. Exactly one of `end` and `error` is called, last, and neither after `abort()`. */
export interface GenerationOutput {
  /** One prompt's log-probabilities, where they were asked for, before its sequences' first tokens. */
  promptLogprobs(promptIndex: number, logprobs: readonly (PromptLogprob | null)[]): void;
  /** What one step added to one prompt's sequences. */
  deltas(promptIndex: number, deltas: readonly Delta[]): void;
  /** All prompts have ended; `usage` is their sum. */
  end(usage: Usage): void;
  error(error: Error): void;
}

/** All prompts of one HTTP request. */
export class Generation {
  readonly #server: Server;
  readonly #requests: readonly GenerationRequest[];
  readonly #startedMs: number;
  readonly #aborts: (() => void)[] = [];
  #output: GenerationOutput | null = null;
  #numOpen = 0;
  /** Tokens of all prompts. */
  #numTokens = 0;
  #usage: Usage = { promptTokens: 0, completionTokens: 0, cachedTokens: 0 };

  /** @param startedMs When the HTTP request arrived, by `performance.now()`. */
  constructor(server: Server, requests: readonly GenerationRequest[], startedMs: number) {
    this.#server = server;
    this.#requests = requests;
    this.#startedMs = startedMs;
  }

  /**
   * Queues the prompts.
   *
   * @throws {RequestError} When one cannot be queued; then none is.
   */
  start(output: GenerationOutput): void {
    this.#output = output;
    this.#numOpen = this.#requests.length;
    try {
      this.#requests.forEach((request, i) => this.#aborts.push(this.#submit(request, i)));
    } catch (error) {
      this.abort();
      throw error;
    }
  }

  /** Stops what has not ended yet; nothing more is output. */
  abort(): void {
    this.#output = null;
    for (const abort of this.#aborts.splice(0)) abort();
  }

  /** Ends everything with an error. */
  fail(error: Error): void {
    const output = this.#output;
    this.abort();
    output?.error(error);
  }

  #submit(request: GenerationRequest, promptIndex: number): () => void {
    const { deadlineMs = null } = request;
    const lastMs = new Float64Array(request.sampling.n);
    let isOpen = true;
    // The engine counts from now on.
    const leftMs = deadlineMs === null ? null : Math.max(0, deadlineMs - (performance.now() - this.#startedMs));
    const abort = this.#server.engine.submit({ ...request, deadlineMs: leftMs }, {
      promptLogprobs: (logprobs) => this.#output?.promptLogprobs(promptIndex, logprobs),
      deltas: (deltas) => {
        const output = this.#output;
        if (output === null) return;
        // Nobody here aborted it, so the engine is closing.
        if (deltas.some(({ finishReason }) => finishReason === "abort")) {
          isOpen = false;
          return this.fail(new EngineError("The engine aborted the request"));
        }
        if (deadlineMs !== null && this.#numTokens === 0 && deltas.every(isOverdue)) {
          isOpen = false;
          return this.fail(deadlineExceeded(deadlineMs));
        }
        this.#measure(deltas, lastMs);
        output.deltas(promptIndex, deltas);
      },
      end: (usage) => {
        isOpen = false;
        this.#end(usage);
      },
      error: (error) => {
        isOpen = false;
        this.fail(error);
      },
    });
    return () => {
      if (isOpen) abort();
      isOpen = false;
    };
  }

  /** @param lastMs When each sequence of the prompt had its last token; 0 before its first. */
  #measure(deltas: readonly Delta[], lastMs: Float64Array): void {
    const nowMs = performance.now();
    let isFirst = lastMs.every((ms) => ms === 0);
    for (const { index, tokenIds } of deltas) {
      if (tokenIds.length === 0) continue;
      this.#numTokens += tokenIds.length;
      if (isFirst) this.#server.metrics.observeFirstToken((nowMs - this.#startedMs) / 1000);
      else if (lastMs[index]! > 0) this.#server.metrics.observeInterToken((nowMs - lastMs[index]!) / 1000);
      isFirst = false;
      lastMs[index] = nowMs;
    }
  }

  #end(usage: Usage): void {
    if (this.#output === null) return;
    this.#usage = {
      promptTokens: this.#usage.promptTokens + usage.promptTokens,
      completionTokens: this.#usage.completionTokens + usage.completionTokens,
      cachedTokens: this.#usage.cachedTokens + usage.cachedTokens,
      ...usage.guesses && { guesses: addGuesses(this.#usage.guesses, usage.guesses) },
    };
    this.#server.metrics.observeEnd((performance.now() - this.#startedMs) / 1000);
    if (--this.#numOpen > 0) return;
    const output = this.#output;
    this.#output = null;
    output.end(this.#usage);
  }
}

function addGuesses(
  sum: Usage["guesses"],
  { kept, rejected }: NonNullable<Usage["guesses"]>,
): NonNullable<Usage["guesses"]> {
  return { kept: (sum?.kept ?? 0) + kept, rejected: (sum?.rejected ?? 0) + rejected };
}

/** Whether a sequence's deadline has ended it. */
function isOverdue({ finishReason, stopReason }: Delta): boolean {
  return finishReason === "length" && stopReason === DEADLINE_STOP_REASON;
}
