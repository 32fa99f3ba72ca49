/**
 * Prefix caching: names a sequence's full pages in the page pool and finds those that others have computed.
 *
 * ```
 *  tokens  [p p p p | p p p p | p p]      pageSize = 4, numTokens = 10
 *  names    N0=h(root,p0..3)  N1=h(N0,p4..7)   the third page is not full: never shared
 * ```
 * At least one token is left to compute, for its logits are what the next one is sampled from.
 *
 * @module
 */

import type { PagePool } from "./page_pool.ts";
import { type PageName, PrefixHasher } from "./prefix_hash.ts";
import type { Sequence } from "./sequence.ts";

export interface PrefixCacheOptions {
  readonly pageSize: number;
  /** What beside the tokens decides a page's contents. */
  readonly fingerprint: string;
}

export class PrefixCache {
  /** Prompt tokens looked up, and those found, since the start. */
  numQueried = 0;
  numHit = 0;
  readonly #pool: PagePool;
  readonly #pageSize: number;
  readonly #hasher: PrefixHasher;
  readonly #tokens: Int32Array;

  constructor(pool: PagePool, { pageSize, fingerprint }: PrefixCacheOptions) {
    this.#pool = pool;
    this.#pageSize = pageSize;
    this.#hasher = new PrefixHasher(fingerprint);
    this.#tokens = new Int32Array(pageSize);
  }

  /** Pages that hold the sequence's beginning, in order; not acquired. */
  find(sequence: Sequence): number[] {
    const pages: number[] = [];
    const numFull = Math.floor((sequence.numTokens - 1) / this.#pageSize);
    for (let i = 0; i < numFull; i++) {
      const name = this.#name(sequence, i);
      const page = this.#pool.find(name, this.#tokens);
      if (page === null) break;
      pages.push(page);
    }
    return pages;
  }

  /** Names the pages that the sequence has filled since it had computed `before` tokens. Unread tokens name nothing. */
  share(sequence: Sequence, before: number): void {
    const numKnown = Math.min(sequence.numComputed, sequence.numTokens - sequence.numUnread);
    const end = Math.floor(numKnown / this.#pageSize);
    for (let i = Math.floor(before / this.#pageSize); i < end; i++) {
      const name = this.#name(sequence, i);
      this.#pool.name(sequence.pages[i]!, name, this.#tokens);
    }
  }

  /** Name of a full page; leaves its tokens in `#tokens`. */
  #name(sequence: Sequence, index: number): PageName {
    const { pageNames, request } = sequence;
    for (let i = pageNames.length; i < index; i++) this.#name(sequence, i);
    sequence.copyTokens(this.#tokens, 0, index * this.#pageSize, this.#pageSize);
    const before = index === 0 ? this.#hasher.root(request.cacheSalt) : pageNames[index - 1]!;
    return pageNames[index] ??= this.#hasher.next(before, this.#tokens);
  }
}
