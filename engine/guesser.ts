/**
 * A sequence's guesses at its next tokens, and how much they are worth.
 *
 * @module
 */

import { NgramIndex } from "./ngram_index.ts";
import type { Sequence } from "./sequence.ts";

/** Tokens that an index takes at a time: a long prompt is not to hold up the other sequences. */
const MAX_PUSHES = 8192;
/** Output that an index is made for; it may become longer. */
const EXPECTED_OUTPUT = 2048;
/** What an older guess counts beside the next newer one. */
const MEMORY = 0.95;
/** What is believed before anything is seen. */
const FIRST_RIGHT = 1.2;
const FIRST_SEEN = 2;
/** No guess is trusted more. */
const MAX_CHANCE = 0.98;

export class Guesser {
  /** What may come next, if `hasGuesses`. */
  readonly guesses: Int32Array;
  hasGuesses = false;
  readonly #index: NgramIndex;
  /** Output tokens when the guesses were made. */
  #madeAt = 0;
  #numRight = FIRST_RIGHT;
  #numSeen = FIRST_SEEN;

  /**
   * @param promptLookupMin Tokens that must have stood before in the same order.
   * @param numGuesses How far it looks.
   */
  constructor({ request: { prompt } }: Sequence, promptLookupMin: number, numGuesses: number) {
    this.#index = new NgramIndex(promptLookupMin, prompt.length + EXPECTED_OUTPUT);
    this.guesses = new Int32Array(numGuesses);
  }

  /** How likely a guess is right when all before it are. */
  get chance(): number {
    return Math.min(MAX_CHANCE, this.#numRight / this.#numSeen);
  }

  /** Takes in what the sequence's text has gained, learns from it what the last guesses were worth, and guesses anew. */
  update(sequence: Sequence): void {
    const { output, request: { prompt } } = sequence;
    if (this.#index.length === prompt.length + output.length) return;
    if (this.hasGuesses) this.#learn(output);
    this.hasGuesses = false;
    const end = Math.min(prompt.length + output.length, this.#index.length + MAX_PUSHES);
    for (let i = this.#index.length; i < end; i++) {
      this.#index.push(i < prompt.length ? prompt[i]! : output[i - prompt.length]!);
    }
    if (end < prompt.length + output.length) return;
    const place = this.#index.find();
    if (place === null) return;
    this.#index.copy(place, this.guesses);
    this.hasGuesses = true;
    this.#madeAt = output.length;
  }

  /** Compares the guesses with the tokens that came, up to the first that was wrong: those after it mean nothing. */
  #learn(output: readonly number[]): void {
    const count = Math.min(this.guesses.length, output.length - this.#madeAt);
    for (let i = 0; i < count; i++) {
      const isRight = this.guesses[i] === output[this.#madeAt + i];
      this.#numRight = MEMORY * this.#numRight + (isRight ? 1 : 0);
      this.#numSeen = MEMORY * this.#numSeen + 1;
      if (!isRight) return;
    }
  }
}
