/**
 * How large a step may be, by what was asked for and by the device.
 *
 * @module
 */

import type { EngineSettings } from "./messages.ts";

/** Capacities of one step. */
export interface StepSizes {
  readonly maxNumSeqs: number;
  /** At least maxNumSeqs, so that every decode fits. */
  readonly maxNumBatchedTokens: number;
  /** Tokens sampled: one a sequence and, where tokens are guessed, one a guess of some of them. */
  readonly maxSamples: number;
  /** Most tokens guessed for a sequence; 0: none. */
  readonly numSpeculativeTokens: number;
  readonly maxLogitEdits: number;
  /** One for each sequence of a step. */
  readonly maxTokenMasks: number;
  /** 32-bit words of a mask. */
  readonly tokenMaskWords: number;
  /** Prompt tokens whose log-probabilities one step tells. */
  readonly maxScores: number;
}

/**
 * What a device runs well. A GPU reads its weights once for all tokens of a step. Each prompt token that is scored costs a
 * row of the output head: so few of them that a step takes no longer than twice its chunk alone.
 */
const DEFAULTS = {
  cpu: { maxNumSeqs: 16, numSpeculativeTokens: 4, maxNumBatchedTokens: 256, maxScores: 64 },
  gpu: { maxNumSeqs: 256, numSpeculativeTokens: 0, maxNumBatchedTokens: 2048, maxScores: 1024 },
} as const;

/**
 * Tokens of a step in which so many sequences decode on a GPU, where nobody has chosen: eight a decode, 512 at least. The
 * scheduler takes no more than fit.
 *
 * A decode reads all weights whatever comes with it, so that prompt tokens beside it cost less than in a step of their own;
 * but they hold up the decodes. With few decodes, 512 tokens are where a token more costs as much as any; with many,
 * prompts have to keep pace with what ends, or fewer and fewer decode at once.
 */
export function mixedStepTokens(numDecodes: number): number {
  return Math.max(8 * numDecodes, 512);
}

/** The rule for steps that decode: none on a CPU, nor where the user has chosen the tokens of a step. */
export function mixedStepRule(
  { maxNumBatchedTokens }: Pick<EngineSettings, "maxNumBatchedTokens">,
  backend: string,
): typeof mixedStepTokens | undefined {
  return backend === "cpu" || maxNumBatchedTokens !== null ? undefined : mixedStepTokens;
}

/** Logit edits that each sequence of a step may have on average, beyond what one alone may need. */
const LOGIT_EDITS_PER_SEQ = 1024;

/** Sequences for which a step takes all the guesses it may: a step of many has little room for them. */
const GUESSING_SEQS = 8;

/** @param backend The device's. */
export function stepSizes(
  settings: Pick<EngineSettings, "maxNumSeqs" | "maxNumBatchedTokens" | "numSpeculativeTokens">,
  backend: string,
  vocabSize: number,
): StepSizes {
  const defaults = backend === "cpu" ? DEFAULTS.cpu : DEFAULTS.gpu;
  const maxNumSeqs = settings.maxNumSeqs ?? defaults.maxNumSeqs;
  const numSpeculativeTokens = settings.numSpeculativeTokens ?? defaults.numSpeculativeTokens;
  const maxNumBatchedTokens = Math.max(settings.maxNumBatchedTokens ?? defaults.maxNumBatchedTokens, maxNumSeqs);
  return {
    maxNumSeqs,
    maxNumBatchedTokens,
    maxSamples: maxNumSeqs + GUESSING_SEQS * numSpeculativeTokens,
    numSpeculativeTokens,
    maxLogitEdits: Math.max(vocabSize, maxNumSeqs * LOGIT_EDITS_PER_SEQ),
    maxTokenMasks: maxNumSeqs,
    tokenMaskWords: Math.ceil(vocabSize / 32),
    maxScores: Math.min(defaults.maxScores, maxNumBatchedTokens),
  };
}
