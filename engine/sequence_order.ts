/**
 * The order of sequences that run or wait: by priority, then by arrival, then by index in the request. Lists of them are
 * kept sorted.
 *
 * @module
 */

import type { Sequence } from "./sequence.ts";

/** Puts a sequence in its place. */
export function insertInOrder(sequences: Sequence[], sequence: Sequence): void {
  sequences.splice(placeOf(sequences, sequence), 0, sequence);
}

/** Takes a sequence out. */
export function removeInOrder(sequences: Sequence[], sequence: Sequence): void {
  if (sequences[0] === sequence) sequences.shift();
  else sequences.splice(placeOf(sequences, sequence), 1);
}

/** How many of the sequences come before this one. */
function placeOf(sequences: readonly Sequence[], sequence: Sequence): number {
  let low = 0;
  let high = sequences.length;
  // Mostly it belongs at the end.
  if (high > 0 && comesBefore(sequences[high - 1]!, sequence)) return high;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (comesBefore(sequences[middle]!, sequence)) low = middle + 1;
    else high = middle;
  }
  return low;
}

function comesBefore(a: Sequence, b: Sequence): boolean {
  return (a.priority - b.priority || a.request.key - b.request.key || a.index - b.index) < 0;
}
