/**
 * A step under way: which sequences it computes, and where their results will stand.
 *
 * @module
 */

import { countRows } from "./batch_writer.ts";
import type { StepBufferViews } from "./native.ts";
import type { Sequence } from "./sequence.ts";

export interface Flight {
  readonly buffer: StepBufferViews;
  readonly parts: readonly Part[];
  readonly startMs: number;
  /** The tokens of the step after it are known only when its guesses have been checked. */
  readonly hasGuesses: boolean;
}

/** A sequence's part of a step. */
export interface Part {
  readonly sequence: Sequence;
  /** Its tokens computed before, and by the step, guesses left out. */
  readonly before: number;
  readonly queryLen: number;
  /** Of the result; null: the step does not sample for it. One more row follows for each guess. */
  readonly row: number | null;
  readonly numGuesses: number;
  /** Its scores in the step buffer, and the place in the prompt of the first; null: none. */
  readonly scores: { readonly from: number; readonly at: number; readonly count: number } | null;
}

/** Sequences whose step was submitted: its tokens count as computed, its guesses not yet; one more as sampled. */
export function advance(batch: readonly Sequence[]): Part[] {
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
    const scores = sequence.numScores === 0
      ? null
      : { from: numScores, at: sequence.scoreBegin, count: sequence.numScores };
    numScores += sequence.numScores;
    return { sequence, before, queryLen, row, numGuesses, scores };
  });
}
