/**
 * Takes over what a finished step did: pages that can be shared, scores, sampled tokens, guesses that were right.
 *
 * @module
 */

import { tokenFlag } from "../models/token_table.ts";
import type { TokenTable } from "../models/types.ts";
import type { Counters } from "./counters.ts";
import type { Flight, Part } from "./flight.ts";
import type { LiveRequests } from "./live_requests.ts";
import type { StepBufferViews } from "./native.ts";
import type { PrefixCache } from "./prefix_cache.ts";
import { readScores } from "./prompt_scores.ts";
import type { Scheduler } from "./scheduler.ts";
import type { LiveRequest, Sequence } from "./sequence.ts";
import { SequenceOutput } from "./sequence_output.ts";
import type { TokenLogprob } from "./types.ts";

export interface StepResultsOptions {
  readonly vocabSize: number;
  readonly tokenTable: TokenTable;
  readonly eosTokenIds: readonly number[];
  readonly counters: Counters;
}

export class StepResults {
  readonly #options: StepResultsOptions;
  readonly #live: LiveRequests;
  readonly #scheduler: Scheduler;
  readonly #cache: PrefixCache;
  /** Prompt tokens of first tokens, and tokens, of the step being taken over. */
  #numPromptTokens = 0;
  #numGenerated = 0;

  constructor(options: StepResultsOptions, live: LiveRequests, scheduler: Scheduler, cache: PrefixCache) {
    this.#options = options;
    this.#live = live;
    this.#scheduler = scheduler;
    this.#cache = cache;
  }

  /** @param flight Its step has finished. */
  apply({ buffer, parts }: Flight): void {
    this.#numPromptTokens = 0;
    this.#numGenerated = 0;
    for (const part of parts) this.#applyPart(buffer, part);
    const { counters } = this.#options;
    counters.add("promptTokensTotal", this.#numPromptTokens);
    counters.add("generationTokensTotal", this.#numGenerated);
    counters.add("stepsTotal", 1);
    counters.set("lastStepTimeMs", Date.now());
  }

  #applyPart(buffer: StepBufferViews, { sequence, before, row, numGuesses, scores }: Part): void {
    // Ended while the step was under way, or a sister's failure has ended the request.
    if (sequence.state === "finished") return;
    this.#cache.share(sequence, before);
    if (scores !== null) this.#readScores(sequence.request, buffer, scores);
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
      this.#live.fail(
        request,
        `The model gave no valid token for request ${request.id}, received ${token}: its logits hold no number`,
      );
      return;
    }
    this.#accept(sequence, token, { buffer, row });
  }

  #readScores(request: LiveRequest, buffer: StepBufferViews, scores: NonNullable<Part["scores"]>): void {
    readScores(request.scores!, buffer, scores);
    request.numScoresLeft -= scores.count;
    if (request.numScoresLeft === 0) this.#live.tellScores(request);
  }

  #accept(sequence: Sequence, token: number, at: { buffer: StepBufferViews; row: number }): void {
    const { request } = sequence;
    const { sampling } = request;
    if (request.numCompletionTokens++ === 0) this.#numPromptTokens += request.prompt.length;
    this.#numGenerated++;
    sequence.output.push(token);
    sequence.edits?.count(token);
    if (sequence.choice !== null) sequence.choice = sequence.choice.after(token);
    sequence.text ??= this.#makeOutput(request);
    const piece = sequence.text.push(token);
    this.#live.push(request, {
      index: sequence.index,
      text: piece.text,
      tokenIds: [token],
      logprobs: sampling.logprobs === null ? null : [logprob(token, sampling.logprobs, at)],
      finishReason: piece.finishReason,
      stopReason: piece.stopReason,
    });
    if (piece.finishReason !== null) this.#live.finish(sequence, piece.finishReason);
  }

  #makeOutput({ prompt, sampling }: LiveRequest): SequenceOutput {
    const { tokenTable: table, eosTokenIds } = this.#options;
    const isTextStart = prompt.every((id) => ((table.flags[id] ?? 0) & tokenFlag.special) !== 0);
    return new SequenceOutput({ table, sampling, eosTokenIds, isTextStart });
  }
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
