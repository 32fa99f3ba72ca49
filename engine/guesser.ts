/**
 * A sequence's guesses at its next tokens, and how much they are worth: what follows in the prediction that came with the
 * request, as long as the output follows it; else what followed where the text's end stood before, in the prompt, the
 * prediction or the output.
 *
 * ```
 *  prediction   a b c d e f g h        output  a b c        guesses  d e f g
 *                                              a b x        guesses  (none: "b x" never stood before)
 *                                              a b x d e f  guesses  g h
 * ```
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
/** What is believed before anything is seen, of guesses by the text alone and of a prediction. */
const FIRST_RIGHT = 1.2;
const FIRST_RIGHT_PREDICTED = 1.8;
const FIRST_SEEN = 2;
/** No guess is trusted more. */
const MAX_CHANCE = 0.98;

export class Guesser {
  /** What may come next: the first {@linkcode count} of them. */
  readonly guesses: Int32Array;
  count = 0;
  /** Of the prompt, the prediction, then the output. */
  readonly #index: NgramIndex;
  readonly #prediction: readonly number[];
  /** The place in the prediction that the output has come to by following it; its length: it does not any more. */
  #next = 0;
  /** Output tokens when the guesses were made. */
  #madeAt = 0;
  #numRight: number;
  #numSeen = FIRST_SEEN;

  /**
   * @param promptLookupMin Tokens that must have stood before in the same order.
   * @param numGuesses How far it looks.
   */
  constructor({ request: { prompt, sampling } }: Sequence, promptLookupMin: number, numGuesses: number) {
    this.#prediction = sampling.prediction ?? [];
    this.#numRight = this.#prediction.length > 0 ? FIRST_RIGHT_PREDICTED : FIRST_RIGHT;
    this.#index = new NgramIndex(promptLookupMin, prompt.length + this.#prediction.length + EXPECTED_OUTPUT);
    this.guesses = new Int32Array(numGuesses);
  }

  /** How likely a guess is right when all before it are. */
  get chance(): number {
    return Math.min(MAX_CHANCE, this.#numRight / this.#numSeen);
  }

  /** Takes in what the sequence's text has gained, learns from it what the last guesses were worth, and guesses anew. */
  update(sequence: Sequence): void {
    const { output } = sequence;
    if (this.#index.length === this.#textLength(sequence)) return;
    this.#learn(output);
    for (let i = this.#madeAt; i < output.length; i++) this.#follow(output[i]!);
    this.#fill(sequence);
    this.count = this.#guess(sequence);
    this.#madeAt = output.length;
  }

  #textLength({ output, request: { prompt } }: Sequence): number {
    return prompt.length + this.#prediction.length + output.length;
  }

  /** Brings the index up to the text, or closer to it. */
  #fill(sequence: Sequence): void {
    const { output, request: { prompt } } = sequence;
    const prediction = this.#prediction;
    const [endOfPrompt, endOfPrediction] = [prompt.length, prompt.length + prediction.length];
    const end = Math.min(this.#textLength(sequence), this.#index.length + MAX_PUSHES);
    for (let i = this.#index.length; i < end; i++) {
      if (i < endOfPrompt) this.#index.push(prompt[i]!);
      else if (i < endOfPrediction) this.#index.push(prediction[i - endOfPrompt]!);
      else this.#index.push(output[i - endOfPrediction]!);
    }
  }

  /** Fills the guesses; returns how many there are. */
  #guess(sequence: Sequence): number {
    const numPredicted = Math.min(this.guesses.length, this.#prediction.length - this.#next);
    for (let i = 0; i < numPredicted; i++) this.guesses[i] = this.#prediction[this.#next + i]!;
    if (numPredicted > 0) return numPredicted;
    if (this.#index.length < this.#textLength(sequence)) return 0;
    const place = this.#index.find();
    if (place === null) return 0;
    this.#index.copy(place, this.guesses);
    return this.guesses.length;
  }

  #follow(token: number): void {
    if (this.#next < this.#prediction.length) {
      this.#next = this.#prediction[this.#next] === token ? this.#next + 1 : this.#prediction.length;
    }
  }

  /** Compares the guesses with the tokens that came, up to the first that was wrong: those after it mean nothing. */
  #learn(output: readonly number[]): void {
    const count = Math.min(this.count, output.length - this.#madeAt);
    for (let i = 0; i < count; i++) {
      const isRight = this.guesses[i] === output[this.#madeAt + i];
      this.#numRight = MEMORY * this.#numRight + (isRight ? 1 : 0);
      this.#numSeen = MEMORY * this.#numSeen + 1;
      if (!isRight) return;
    }
  }
}
