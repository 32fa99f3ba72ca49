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
  readonly maxLogitEdits: number;
  /** One for each sequence of a step, or 0 where the device takes none. */
  readonly maxTokenMasks: number;
  /** 32-bit words of a mask. */
  readonly tokenMaskWords: number;
  /** Prompt tokens whose log-probabilities one step tells, or 0 where the device tells none. */
  readonly maxScores: number;
}

/** What a device runs well. A GPU reads its weights once for all tokens of a step. */
const DEFAULTS = {
  cpu: { maxNumSeqs: 16, maxNumBatchedTokens: 256 },
  gpu: { maxNumSeqs: 256, maxNumBatchedTokens: 2048 },
} as const;

/**
 * Prompt tokens that one step scores at most: each costs a row of the output head, so that a step takes longer by no more
 * than a prefill chunk does.
 */
const MAX_SCORES = 64;

/** Logit edits that each sequence of a step may have on average, beyond what one alone may need. */
const LOGIT_EDITS_PER_SEQ = 1024;

/** @param backend The device's. */
export function stepSizes(
  settings: Pick<EngineSettings, "maxNumSeqs" | "maxNumBatchedTokens">,
  backend: string,
  vocabSize: number,
): StepSizes {
  const defaults = backend === "cpu" ? DEFAULTS.cpu : DEFAULTS.gpu;
  const maxNumSeqs = settings.maxNumSeqs ?? defaults.maxNumSeqs;
  const maxNumBatchedTokens = Math.max(settings.maxNumBatchedTokens ?? defaults.maxNumBatchedTokens, maxNumSeqs);
  const maxTokenMasks = backend === "cpu" ? maxNumSeqs : 0;
  return {
    maxNumSeqs,
    maxNumBatchedTokens,
    maxLogitEdits: Math.max(vocabSize, maxNumSeqs * LOGIT_EDITS_PER_SEQ),
    maxTokenMasks,
    tokenMaskWords: maxTokenMasks > 0 ? Math.ceil(vocabSize / 32) : 0,
    maxScores: backend === "cpu" ? Math.min(MAX_SCORES, maxNumBatchedTokens) : 0,
  };
}
