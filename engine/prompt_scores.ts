/**
 * A prompt's log-probabilities, from the steps that score its tokens to the request's sink.
 *
 * ```
 *  prompt   p0   p1   p2   p3   p4        score i is token i + 1's, by the logits after token i
 *  scores   s0   s1   s2   s3
 *  steps   | s0   s1 | s2 | s3 |          as many a step as its chunk has, and as the step buffer holds
 * ```
 *
 * @module
 */

import type { StepBufferViews } from "./native.ts";
import type { PromptLogprob } from "./types.ts";

/** Scores of all of a prompt's tokens but the first, as columns: they cross to the HTTP thread as they are. */
export interface PromptScores {
  /** Most likely tokens of each score. */
  readonly numTop: number;
  readonly logprob: Float32Array<ArrayBuffer>;
  readonly rank: Int32Array<ArrayBuffer>;
  /** `[scores][numTop]`, -1 where there are fewer. */
  readonly topToken: Int32Array<ArrayBuffer>;
  readonly topLogprob: Float32Array<ArrayBuffer>;
}

/** Most log-probabilities of a prompt's tokens, the likeliest ones' counted, that one request may ask for. */
export const MAX_PROMPT_LOGPROBS = 2 ** 18;

/** Room for the scores of a prompt. */
export function newPromptScores(promptTokens: number, numTop: number): PromptScores {
  const numScores = promptTokens - 1;
  return {
    numTop,
    logprob: new Float32Array(numScores),
    rank: new Int32Array(numScores),
    topToken: new Int32Array(numScores * numTop),
    topLogprob: new Float32Array(numScores * numTop),
  };
}

/** Takes over what a step told: its scores `from .. from + count - 1` are the prompt's from `at` on. */
export function readScores(
  scores: PromptScores,
  buffer: StepBufferViews,
  { from, at, count }: { from: number; at: number; count: number },
): void {
  const { numTop } = scores;
  scores.logprob.set(buffer.scoreLogprob.subarray(from, from + count), at);
  scores.rank.set(buffer.scoreRank.subarray(from, from + count), at);
  for (let i = 0; i < count; i++) {
    const begin = (from + i) * buffer.maxLogprobs;
    scores.topToken.set(buffer.scoreTopToken.subarray(begin, begin + numTop), (at + i) * numTop);
    scores.topLogprob.set(buffer.scoreTopLogprob.subarray(begin, begin + numTop), (at + i) * numTop);
  }
}

/** One entry a token of the prompt; null for the first, which nothing stands before. */
export function promptLogprobs(prompt: readonly number[], scores: PromptScores): (PromptLogprob | null)[] {
  const { numTop, logprob, rank, topToken, topLogprob } = scores;
  return prompt.map((tokenId, i) => {
    if (i === 0) return null;
    const top: { tokenId: number; logprob: number }[] = [];
    for (let j = (i - 1) * numTop; j < i * numTop && topToken[j]! >= 0; j++) {
      top.push({ tokenId: topToken[j]!, logprob: topLogprob[j]! });
    }
    return { tokenId, logprob: logprob[i - 1]!, rank: rank[i - 1]!, top };
  });
}
