/**
 * Speculative decoding without a second model: what {@linkcode Guesser} makes of a sequence's text, or of the prediction
 * that its request brings, is put behind its last token in the next step, which samples after each of the guesses.
 *
 * ```
 *  output known   .. a b          the end "a b" stood before, followed by c d e
 *  step           [ b c d e ]     4 tokens, 4 rows of results
 *  sampled          c d x y       c and d are as guessed, so x is the token after them; y came after a wrong guess
 *  output         .. a b c d x    3 tokens by one step
 * ```
 * Each row draws with the random number of its place in the output, so a guess is kept exactly when it is the token that
 * would have been sampled without guessing: the output is the same, whatever is guessed.
 *
 * Whether it pays is decided step by step. How often a sequence's guesses are right is seen also while none are put
 * into steps: the next token always tells what the first guess was worth. With the chance p that a guess is right when
 * all before it are, the k-th is kept with the chance p^k; it is put into the step while that is more than its share of
 * the step's time, by which the other tokens come later.
 *
 * @module
 */

import { Guesser } from "./guesser.ts";
import type { EngineSettings } from "./messages.ts";
import type { Sequence } from "./sequence.ts";

export interface SpeculationOptions {
  /** Most guesses for a sequence in one step, >= 1. */
  readonly numSpeculativeTokens: number;
  /** Tokens that must have stood before in the same order, >= 1. */
  readonly promptLookupMin: number;
  /** What a token adds to a step's time, as a share of what the step takes without any. */
  readonly tokenCost: number;
  /**
   * What a step with guesses loses beside one without, as a share of its time: the device waits for this thread, which must
   * know the tokens before it can submit the next step.
   */
  readonly waitCost: number;
  /** Tokens of a step up to which a device has kernels for few. */
  readonly fewTokens: number;
  /** What a step loses besides when its guesses bring it above `fewTokens`, as a share of its time. */
  readonly manyCost: number;
}

/**
 * What the arithmetic of a device makes of a token: a CPU is busy with it for about a quarter of the time that the weights
 * take to be read, a GPU for much less, but that runs on by itself while it need not wait. The CPU's is the upper end of
 * what `bench/speculation.ts` makes of it with SmolLM2 (0.15 to 0.25). The GPU's is what `bench/speculation_streams.ts`
 * makes of it with the 8B shape on an H100: steps took 1.07 (3 tokens beside 1), 1.09 (25 beside 8), 1.55 (118 beside 64)
 * and 1.75 times (191 beside 64) as long.
 */
const COSTS = {
  cpu: { tokenCost: 0.25, waitCost: 0, fewTokens: Infinity, manyCost: 0 },
  gpu: { tokenCost: 0.003, waitCost: 0.1, fewTokens: 64, manyCost: 0.3 },
} as const;

/**
 * How an engine speculates; null: it does not. Scales that are being calculated are not to depend on guesses.
 *
 * @param numSpeculativeTokens Most tokens guessed for a sequence; 0: none.
 * @param backend The device's.
 */
export function speculationOptions(
  { promptLookupMin, kvScaleTokens }: Pick<EngineSettings, "promptLookupMin" | "kvScaleTokens">,
  numSpeculativeTokens: number,
  backend: string,
): SpeculationOptions | null {
  if (numSpeculativeTokens === 0 || kvScaleTokens !== null) return null;
  return { numSpeculativeTokens, promptLookupMin, ...backend === "cpu" ? COSTS.cpu : COSTS.gpu };
}

/** Steps whose tokens take more of the time than this have no room for guesses. */
const MAX_SHARE = 0.9;

const NONE: ReadonlyMap<Sequence, number> = new Map();

/** Guesses for a step. */
interface Plan {
  readonly counts: ReadonlyMap<Sequence, number>;
  /** Of the step with them. */
  readonly numTokens: number;
  /** Tokens that they are expected to bring. */
  readonly gain: number;
}

export class Speculator {
  readonly #options: SpeculationOptions;
  readonly #maxRows: number;

  /** @param maxRows Tokens that one step can sample. */
  constructor(options: SpeculationOptions, maxRows: number) {
    this.#options = options;
    this.#maxRows = maxRows;
  }

  /** How many of its guesses to put into a step for each of its sequences; none where it does not pay. */
  plan(sequences: readonly Sequence[]): ReadonlyMap<Sequence, number> {
    const { fewTokens, waitCost, manyCost } = this.#options;
    const numTokens = sequences.reduce((sum, { queryLen }) => sum + queryLen, 0);
    const most = this.#planUpTo(Infinity, sequences, numTokens);
    if (numTokens > fewTokens || most.numTokens <= fewTokens) {
      return most.gain > waitCost * sequences.length ? most.counts : NONE;
    }
    const few = this.#planUpTo(fewTokens, sequences, numTokens);
    const [mostGain, fewGain] = [
      most.gain - (waitCost + manyCost) * sequences.length,
      few.gain - waitCost * sequences.length,
    ];
    if (Math.max(mostGain, fewGain) <= 0) return NONE;
    return mostGain > fewGain ? most.counts : few.counts;
  }

  /** The guesses that are worth their share of the step, at most as many as bring it to `maxTokens`. */
  #planUpTo(maxTokens: number, sequences: readonly Sequence[], numTokens: number): Plan {
    const counts = new Map<Sequence, number>();
    let numRows = sequences.length;
    let gain = 0;
    for (const sequence of sequences) {
      const share = this.#share(numTokens);
      if (share > MAX_SHARE) break;
      const guesser = this.#guesser(sequence);
      if (guesser === null || guesser.count === 0) continue;
      const { chance } = guesser;
      const worth = Math.floor(Math.log(share) / Math.log(chance));
      const room = Math.min(this.#maxRows - numRows, maxTokens - numTokens);
      const count = Math.min(worth, guesser.count, this.#mostGuesses(sequence), room);
      if (count < 1) continue;
      counts.set(sequence, count);
      numTokens += count;
      numRows += count;
      gain += chance * (1 - chance ** count) / (1 - chance);
    }
    return { counts, numTokens, gain };
  }

  /** What part of a step's time its tokens take, which is what one more must be worth. */
  #share(numTokens: number): number {
    const cost = numTokens * this.#options.tokenCost;
    return cost / (1 + cost);
  }

  /** The sequence's guesser, up to date; null where nothing can be guessed for it. */
  #guesser(sequence: Sequence): Guesser | null {
    if (this.#mostGuesses(sequence) < 1) return null;
    const { promptLookupMin, numSpeculativeTokens } = this.#options;
    sequence.guesser ??= new Guesser(sequence, promptLookupMin, numSpeculativeTokens);
    sequence.guesser.update(sequence);
    return sequence.guesser;
  }

  /** A sequence that decodes and whose next token changes nothing about how the one after it is sampled. */
  #mostGuesses(sequence: Sequence): number {
    if (sequence.numPending !== 1 || sequence.dependsOnOutput || sequence.edits?.bansStops) return 0;
    const { speculate, maxTokens } = sequence.request.sampling;
    if (!speculate) return 0;
    return Math.min(this.#options.numSpeculativeTokens, maxTokens - sequence.output.length - sequence.numUnread - 1);
  }
}
