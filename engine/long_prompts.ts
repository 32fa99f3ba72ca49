/**
 * One long prompt at a time. A prompt of which many steps are left to compute gets all that shorter ones leave, so a second
 * one beside it would get one chunk, and hold pages that others could use until it has its turn. Newcomers behind it in the
 * queue pass it meanwhile.
 *
 * ```
 *  long: more than 2048 tokens left
 *  under way   a: 12,000 left           | a: 1900 left, not long any more
 *  queue       b: 20,000   c: 300       | b: 20,000
 *  admitted                c            | b
 * ```
 * Not held back is what comes before the long prompt in order of priority, nor what the prefix cache makes short.
 *
 * @module
 */

import type { Sequence } from "./sequence.ts";

/** Tokens above which a prompt is long, unless a step has more. */
const LONG_PROMPT_TOKENS = 2048;
/** Times that a step searches the prefix cache for what makes a waiting prompt short; those left over wait a step more. */
const MAX_LOOKS = 64;

export interface LongPromptsOptions {
  readonly maxNumBatchedTokens: number;
  /** Tokens left to compute above which a prompt is long; the larger of a step's and 2048 if left out. */
  readonly longPromptTokens?: number | undefined;
  /** Whether a running sequence takes all of the budget that it gets. */
  readonly isComputed: (sequence: Sequence) => boolean;
  /** Tokens of a waiting sequence that the prefix cache holds. */
  readonly numHitTokens: (sequence: Sequence) => number;
}

export class LongPrompts {
  readonly #options: LongPromptsOptions;
  readonly #longPromptTokens: number;
  /** The most urgent priority of the long prompts under way; Infinity: there are none. */
  #priority = Infinity;
  /** Raised when those held back are to be looked at again. */
  #turn = 0;
  #looksLeft = 0;

  constructor(options: LongPromptsOptions) {
    this.#options = options;
    this.#longPromptTokens = options.longPromptTokens ?? Math.max(LONG_PROMPT_TOKENS, options.maxNumBatchedTokens);
  }

  /** Begins a step. */
  begin(running: readonly Sequence[]): void {
    const before = this.#priority;
    this.#priority = Infinity;
    this.#looksLeft = MAX_LOOKS;
    for (const sequence of running) this.#count(sequence, sequence.numPending);
    if (this.#priority > before) this.#turn++;
  }

  /** Takes note of a sequence that has been admitted. @param numLeft Its tokens that the step leaves to compute. */
  admit(sequence: Sequence, numLeft: number): void {
    this.#count(sequence, numLeft);
  }

  /** Whether a waiting sequence has to wait for a long prompt under way. */
  isHeldBack(sequence: Sequence): boolean {
    if (this.#priority > sequence.priority || !this.#isLong(sequence.numPending)) return false;
    if (sequence.lookedAtTurn !== this.#turn) {
      if (this.#looksLeft === 0) return true;
      this.#looksLeft--;
      sequence.lookedAtTurn = this.#turn;
      sequence.numHitsSeen = this.#options.numHitTokens(sequence);
    }
    return this.#isLong(sequence.numPending - sequence.numHitsSeen);
  }

  #count(sequence: Sequence, numLeft: number): void {
    if (this.#isLong(numLeft) && this.#options.isComputed(sequence)) {
      this.#priority = Math.min(this.#priority, sequence.priority);
    }
  }

  #isLong(numTokens: number): boolean {
    return numTokens > this.#longPromptTokens;
  }
}
