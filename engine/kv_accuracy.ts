/**
 * What each KV cache costs in quality on given texts: perplexity, KL divergence from the reference, the same most likely
 * token, and how long greedy decoding goes the same way.
 *
 * @module
 */

import type { KvComparison } from "./kv_comparison.ts";

/** One cache's accuracy; the reference's own has no differences. */
export interface KvAccuracy {
  readonly name: string;
  /** exp of the mean negative log-likelihood of the texts' tokens. */
  readonly perplexity: number;
  /** Mean negative log-likelihood less the reference's, in nats a token, and its standard error. */
  readonly deltaNll: number;
  readonly deltaNllStderr: number;
  /** KL divergence of the next-token distribution from the reference's, in nats, over all positions. */
  readonly klMean: number;
  readonly klP99: number;
  readonly klMax: number;
  /** Share of positions with the reference's most likely token. */
  readonly top1Agreement: number;
  /** Greedy decoding from the middle of each text; null where none was asked for. */
  readonly greedy: GreedyAgreement | null;
}

/** How long two greedy decodings are the same. */
export interface GreedyAgreement {
  /** Mean number of tokens before the first that differs; `of` where none does. */
  readonly tokens: number;
  /** Tokens decoded of each text. */
  readonly of: number;
  /** Share of texts without a difference. */
  readonly identical: number;
}

export interface KvAccuracyOptions {
  /** Token ids of each text, two or more, none longer than the comparison holds. */
  readonly samples: readonly (readonly number[])[];
  /** Tokens to decode from the middle of each text; no more than half of it are. 0 = none. */
  readonly greedyTokens: number;
  /** Called after each text. */
  readonly onSample: (numSamples: number) => void;
}

/** What is kept of each variant: a number a token. */
class Measurements {
  readonly kl: number[] = [];
  readonly nll: number[] = [];
  readonly deltaNll: number[] = [];
  readonly greedy: { readonly tokens: number; readonly of: number }[] = [];
  numAgreeing = 0;
}

/**
 * Runs the texts through every variant.
 *
 * @returns One entry a variant, the reference's first.
 * @throws {NativeError} Logits hold NaN or infinity: the model's weights are broken.
 */
export function measureKvAccuracy(comparison: KvComparison, options: KvAccuracyOptions): KvAccuracy[] {
  const { samples, greedyTokens, onSample } = options;
  const reference = new Measurements();
  const others = comparison.variants.slice(1).map(() => new Measurements());
  samples.forEach((tokens, i) => {
    comparison.truncate(0);
    const compared = comparison.compare(tokens, [...tokens.slice(1), -1]);
    others.forEach((measured, variant) => {
      compared[variant]!.forEach(({ kl, logprob, referenceLogprob, top, referenceTop }, place) => {
        measured.kl.push(kl);
        if (top === referenceTop) measured.numAgreeing++;
        if (place + 1 === tokens.length) return; // nothing follows the last token
        measured.nll.push(-logprob);
        measured.deltaNll.push(referenceLogprob - logprob);
        if (variant === 0) reference.nll.push(-referenceLogprob);
      });
    });
    const count = Math.min(greedyTokens, Math.floor(tokens.length / 2));
    if (count > 0) decodeGreedily(comparison, { tokens, count, others });
    onSample(i + 1);
  });
  const names = comparison.variants.map(({ name }) => name);
  return [referenceAccuracy(names[0]!, reference), ...others.map((measured, i) => accuracy(names[i + 1]!, measured))];
}

function decodeGreedily(
  comparison: KvComparison,
  { tokens, count, others }: { tokens: readonly number[]; count: number; others: readonly Measurements[] },
): void {
  const start = Math.ceil(tokens.length / 2) - 1;
  const from = { start, token: tokens[start]!, count };
  const expected = comparison.generate(0, from);
  others.forEach((measured, i) => {
    const generated = comparison.generate(i + 1, from);
    const different = generated.findIndex((token, at) => token !== expected[at]);
    measured.greedy.push({ tokens: different < 0 ? count : different, of: count });
  });
}

function referenceAccuracy(name: string, { nll }: Measurements): KvAccuracy {
  return {
    name,
    perplexity: Math.exp(mean(nll)),
    deltaNll: 0,
    deltaNllStderr: 0,
    klMean: 0,
    klP99: 0,
    klMax: 0,
    top1Agreement: 1,
    greedy: null,
  };
}

function accuracy(name: string, { kl, nll, deltaNll, greedy, numAgreeing }: Measurements): KvAccuracy {
  const sorted = kl.toSorted((a, b) => a - b);
  const meanDelta = mean(deltaNll);
  const variance = mean(deltaNll.map((delta) => (delta - meanDelta) ** 2));
  return {
    name,
    perplexity: Math.exp(mean(nll)),
    deltaNll: meanDelta,
    deltaNllStderr: Math.sqrt(variance / Math.max(1, deltaNll.length - 1)),
    klMean: mean(kl),
    klP99: quantile(sorted, 0.99),
    klMax: sorted.at(-1) ?? 0,
    top1Agreement: numAgreeing / kl.length,
    greedy: greedy.length === 0 ? null : {
      tokens: mean(greedy.map(({ tokens }) => tokens)),
      of: mean(greedy.map(({ of }) => of)),
      identical: greedy.filter(({ tokens, of }) => tokens === of).length / greedy.length,
    },
  };
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** With linear interpolation between neighbours. */
function quantile(sorted: readonly number[], share: number): number {
  const at = share * (sorted.length - 1);
  const low = Math.floor(at);
  return sorted[low]! + (at - low) * ((sorted[low + 1] ?? sorted[low]!) - sorted[low]!);
}
