/**
 * A sequence's tokens to text, and whether a token ends it.
 *
 * @module
 */

import type { TokenTable } from "../models/types.ts";
import { Detokenizer } from "./detokenizer.ts";
import { StopMatcher } from "./stop_matcher.ts";
import type { Delta, SamplingParams } from "./types.ts";

/** What a token added; the fields of a {@linkcode Delta} that depend on text. */
export type OutputPiece = Pick<Delta, "text" | "finishReason" | "stopReason">;

export interface SequenceOutputOptions {
  readonly table: TokenTable;
  readonly sampling: SamplingParams;
  readonly eosTokenIds: readonly number[];
  /** The output is the beginning of a text: the prompt has no text of its own. */
  readonly isTextStart: boolean;
}

export class SequenceOutput {
  readonly #sampling: SamplingParams;
  readonly #eosTokenIds: readonly number[];
  readonly #detokenizer: Detokenizer;
  readonly #matcher: StopMatcher;
  #numTokens = 0;

  constructor(options: SequenceOutputOptions) {
    const { table, sampling, isTextStart } = options;
    this.#sampling = sampling;
    this.#eosTokenIds = options.eosTokenIds;
    this.#detokenizer = new Detokenizer(table, { skipSpecialTokens: sampling.skipSpecialTokens, isTextStart });
    this.#matcher = new StopMatcher(sampling.stop, { includeStop: sampling.includeStopStrInOutput });
  }

  /** Takes a sampled token. */
  push(token: number): OutputPiece {
    const { minTokens, maxTokens, includeStopStrInOutput, stopTokenIds, ignoreEos } = this.#sampling;
    this.#numTokens++;
    const isFree = this.#numTokens > minTokens;
    const isEos = isFree && !ignoreEos && this.#eosTokenIds.includes(token);
    const isStop = isEos || (isFree && stopTokenIds.includes(token));
    const isLast = isStop || this.#numTokens === maxTokens;

    let piece = isStop && !includeStopStrInOutput ? "" : this.#detokenizer.push(token);
    if (isLast) piece += this.#detokenizer.flush();
    const match = isFree ? this.#matcher.push(piece) : { text: piece, stop: null };
    if (match.stop !== null) return { text: match.text, finishReason: "stop", stopReason: match.stop };
    if (!isLast) return { text: match.text, finishReason: null, stopReason: null };
    return {
      text: match.text + this.#matcher.flush(),
      finishReason: isStop ? "stop" : "length",
      stopReason: isStop && !isEos ? token : null,
    };
  }

  /** The text still held back, for a sequence that is aborted. */
  flush(): string {
    return this.#matcher.push(this.#detokenizer.flush()).text + this.#matcher.flush();
  }
}
