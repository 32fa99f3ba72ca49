/**
 * Pages that serve several KV dtypes: all have the same bytes, and a dtype's page holds as many tokens as fit. A page that
 * one dtype gives back is any other's at once, so memory moves between dtypes without rest and nothing is ever fragmented.
 *
 * ```
 *   page      |<------------- pageBytes ------------->|
 *   bfloat16  | 16 tokens                             |
 *   fp8_e4m3  | 32 tokens                             |
 *   k8v4      | 32 tokens                 |   unused  |
 * ```
 * What it costs is the part of a page that a dtype leaves unused. Tokens double from one page size to the next, so less
 * than half has to be (tests try all dtypes); the sizes chosen leave the least: nothing with bfloat16 and fp8, 3 % with
 * bfloat16 and int8, 11 % with int4, and at most 21 % of any one beside bfloat16 (k8v4).
 *
 * @module
 */

/** Tokens of a page. */
export const PAGE_SIZES = [16, 32, 64] as const;

/** What pages hold. */
export interface PageSizes {
  /** Tokens of a page, of each dtype. */
  readonly pageSizes: readonly number[];
  readonly pageBytes: number;
  /** Part of a page that each dtype leaves unused. */
  readonly unused: readonly number[];
}

/** Shares of a page that differ by less count as equal. */
const NEGLIGIBLE = 1e-3;

/**
 * Chooses the page sizes of which the dtype that leaves most unused leaves least; among equals the first dtype's is as near
 * to the wanted one as can be, and the pages are small.
 *
 * @param bytesPerToken Of each dtype, one at least.
 * @param wanted The first dtype's page size. A single dtype has it.
 */
export function choosePageSizes(bytesPerToken: readonly number[], wanted: number): PageSizes {
  if (bytesPerToken.length === 1) {
    return { pageSizes: [wanted], pageBytes: bytesPerToken[0]! * wanted, unused: [0] };
  }
  const candidates = bytesPerToken.flatMap((bytes) => PAGE_SIZES.map((size) => fill(bytesPerToken, bytes * size)))
    .filter((sizes) => sizes !== null);
  const waste = ({ unused }: PageSizes) => Math.max(...unused);
  const least = Math.min(...candidates.map(waste));
  const distance = ({ pageSizes }: PageSizes) => Math.abs(Math.log2(pageSizes[0]! / wanted));
  return candidates.filter((sizes) => waste(sizes) <= least + NEGLIGIBLE)
    .reduce((best, sizes) =>
      distance(sizes) < distance(best) || (distance(sizes) === distance(best) && sizes.pageBytes < best.pageBytes)
        ? sizes
        : best
    );
}

/** The most tokens of each dtype in so many bytes; null where not even the smallest page fits. */
function fill(bytesPerToken: readonly number[], pageBytes: number): PageSizes | null {
  const pageSizes = bytesPerToken.map((bytes) => PAGE_SIZES.findLast((size) => bytes * size <= pageBytes) ?? 0);
  if (pageSizes.includes(0)) return null;
  return { pageSizes, pageBytes, unused: bytesPerToken.map((bytes, i) => 1 - bytes * pageSizes[i]! / pageBytes) };
}
