/**
 * `octavo_compare_logits`: how far two distributions of the next token are apart.
 *
 * @module
 */

import type { Library } from "./library.ts";
import { COMPARISON } from "./structs.ts";

/** A reference's distribution of the next token beside another's. */
export interface Comparison {
  /** KL divergence of the other from the reference, in nats. */
  readonly kl: number;
  /** Natural log-probability of the target under the reference. */
  readonly referenceLogprob: number;
  /** The same under the other. */
  readonly logprob: number;
  /** The reference's most likely token. */
  readonly referenceTop: number;
  /** The other's. */
  readonly top: number;
}

export interface CompareLogitsOptions {
  /** `[targets.length][vocabSize]`, as `logits`. */
  readonly reference: Float32Array<ArrayBuffer>;
  readonly logits: Float32Array<ArrayBuffer>;
  readonly vocabSize: number;
  /** Of each row, a token, or -1: the reference's most likely one. */
  readonly targets: Int32Array<ArrayBuffer>;
  /** 0 = physical cores. */
  readonly numThreads: number;
}

/**
 * Compares rows of logits.
 *
 * @throws {NativeError} A row holds NaN or infinity, or a target is no token.
 */
export function compareLogits(library: Library, options: CompareLogitsOptions): Comparison[] {
  const { reference, logits, vocabSize, targets, numThreads } = options;
  const wanted = targets.length * vocabSize;
  if (Math.min(reference.length, logits.length) < wanted) {
    throw new RangeError(
      `Cannot compare logits: expected ${wanted}, received ${reference.length} and ${logits.length}`,
    );
  }
  const size = COMPARISON.sizeBytes;
  const bytes = new Uint8Array(size * targets.length);
  const { symbols } = library;
  library.check(
    symbols.octavo_compare_logits(reference, logits, vocabSize, targets.length, targets, bytes, numThreads),
  );
  return Array.from(targets, (_, row) => {
    const values = COMPARISON.decode(bytes.subarray(row * size, (row + 1) * size));
    return {
      kl: values.kl,
      referenceLogprob: values.reference_logprob,
      logprob: values.logprob,
      referenceTop: values.reference_top,
      top: values.top,
    };
  });
}
