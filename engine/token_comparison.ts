/**
 * One prompt and its greedy continuation under two KV caches, token by token.
 *
 * @module
 */

import type { Comparison } from "../ffi/compare_logits.ts";
import type { KvComparison } from "./kv_comparison.ts";

export interface TokenComparisonRequest {
  /** At least one. */
  readonly promptTokenIds: readonly number[];
  /** Tokens to decode after the prompt, greedily under the reference; an end-of-sequence token ends them. */
  readonly maxTokens: number;
  readonly eosTokenIds: readonly number[];
}

/** A token of the text, and what both caches made of its place before it was known. */
export interface ComparedToken extends Comparison {
  readonly tokenId: number;
  /** False where it was decoded. */
  readonly isPrompt: boolean;
}

/** Tokens of the prompt that one turn compares: other requests wait for it. */
const TURN = 64;

/** The work in turns, so that others can run between them. */
export class TokenComparison {
  readonly #comparison: KvComparison;
  readonly #request: TokenComparisonRequest;
  readonly #tokens: ComparedToken[] = [];
  /** What comes next; null once the end is reached. */
  #next: number | null;
  #numGenerated = 0;

  /**
   * @param comparison Of two variants, with room for the prompt and `maxTokens`.
   * @throws {RangeError} The prompt is empty.
   */
  constructor(comparison: KvComparison, request: TokenComparisonRequest) {
    if (request.promptTokenIds.length === 0) throw new RangeError("Cannot compare: the prompt has no tokens");
    this.#comparison = comparison;
    this.#request = request;
    this.#next = request.promptTokenIds[0]!;
    comparison.truncate(0);
  }

  get isDone(): boolean {
    return this.#next === null;
  }

  /** All tokens so far but the prompt's first, before which nothing stands. */
  get tokens(): readonly ComparedToken[] {
    return this.#tokens;
  }

  /** Compares one part of the prompt, or decodes one token. @throws {NativeError} Logits hold NaN or infinity. */
  step(): void {
    if (this.#next === null) return;
    const { promptTokenIds, maxTokens, eosTokenIds } = this.#request;
    const { length } = this.#comparison;
    const tokens = length < promptTokenIds.length ? promptTokenIds.slice(length, length + TURN) : [this.#next];
    const following = promptTokenIds.slice(length + 1, length + 1 + tokens.length);
    const isPromptOver = following.length < tokens.length;
    const [compared] = this.#comparison.compare(tokens, isPromptOver ? [...following, -1] : following);
    following.forEach((tokenId, i) => this.#tokens.push({ tokenId, isPrompt: true, ...compared![i]! }));
    if (!isPromptOver) return;
    const last = compared!.at(-1)!;
    const isOver = this.#numGenerated === maxTokens;
    if (!isOver) {
      this.#tokens.push({ tokenId: last.referenceTop, isPrompt: false, ...last });
      this.#numGenerated++;
    }
    const isEnd = isOver || this.#numGenerated === maxTokens || eosTokenIds.includes(last.referenceTop);
    this.#next = isEnd ? null : last.referenceTop;
  }
}

/** What a list of compared tokens comes to. */
export interface TokenComparisonSummary {
  /** In nats a token. */
  readonly klMean: number;
  readonly klMax: number;
  /** Share of places with the same most likely token. */
  readonly top1Agreement: number;
  /** Index among the decoded tokens of the first that the other cache would not have chosen; null: none. */
  readonly firstDivergence: number | null;
}

/** Sums up; zeros and full agreement where there are no tokens. */
export function summarize(tokens: readonly ComparedToken[]): TokenComparisonSummary {
  const count = Math.max(1, tokens.length);
  const numDifferent = tokens.filter(({ top, referenceTop }) => top !== referenceTop).length;
  const first = tokens.filter(({ isPrompt }) => !isPrompt).findIndex(({ top, tokenId }) => top !== tokenId);
  return {
    klMean: tokens.reduce((sum, { kl }) => sum + kl, 0) / count,
    klMax: tokens.reduce((most, { kl }) => Math.max(most, kl), 0),
    top1Agreement: 1 - numDifferent / count,
    firstDivergence: first < 0 ? null : first,
  };
}
