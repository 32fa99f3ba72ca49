/**
 * How full a newcomer may make the pool: pages that stay free for those that run, so that they need not soon be
 * preempted.
 *
 * Sequences take pages as they grow and give them back when they end. On average the two are even; what is needed beyond
 * it is the chance surplus of growth over ends, which rises with the square root of how many grow. The factor is where
 * preemptions become rare in `bench/scheduler.ts` and throughput is still within two percent of the best
 * (docs/scheduling.md has the figures).
 *
 * @module
 */

/** What runs. */
export interface Growth {
  /** Sequences that may still ask for pages. */
  readonly numGrowing: number;
  /** Pages that they can ask for at most. */
  readonly numPagesLeft: number;
  /** Pages of the pool. */
  readonly numPages: number;
  /** Tokens of a page. */
  readonly pageSize: number;
}

const SURPLUS_TOKENS = 256;
/** Of the pool; a small one would else stand empty. */
const MAX_SHARE = 1 / 8;

/** Pages to leave free. In a pool of few pages one for each sequence that grows. */
export function growthReserve({ numGrowing, numPagesLeft, numPages, pageSize }: Growth): number {
  const surplus = Math.ceil(SURPLUS_TOKENS * Math.sqrt(numGrowing) / pageSize);
  return Math.min(numPagesLeft, surplus, Math.max(numGrowing, Math.floor(numPages * MAX_SHARE)));
}
