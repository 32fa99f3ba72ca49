/**
 * Prefix caching: names a sequence's full pages in the page pool and finds those that others have computed.
 *
 * ```
 *  tokens  [p p p p | p p p p | p p]      pageSize = 4, numTokens = 10
 *  names    N0=h(root,p0..3)  N1=h(N0,p4..7)   the third page is not full: never shared
 * ```
 * At least one token is left to compute, for its logits are what the next one is sampled from.
 *
 * A request's own sequences share its prompt in the same way, also where nothing is kept for other requests: the first,
 * its leader, computes the prompt, its sisters wait and begin with its pages.
 *
 * ```
 *  prompt  [p p p p | p p p p | p p]
 *  leader   page 3    page 8    page 5   o o ...
 *  sister   page 3    page 8    page 9   o o ...    its own last page: the tokens in it are computed again
 * ```
 * So nothing is copied and no shared page is ever written. What is lost of the pages meanwhile (nobody owns them, and
 * others need room) is computed again by the next sister, for the rest of them.
 *
 * @module
 */

import type { PagePool } from "./page_pool.ts";
import { type PageName, PrefixHasher } from "./prefix_hash.ts";
import type { LiveRequest, Sequence } from "./sequence.ts";

export interface PrefixCacheOptions {
  readonly pageSize: number;
  /** What beside the tokens decides a page's contents; null: pages serve the sequences of one request only. */
  readonly fingerprint: string | null;
}

export class PrefixCache {
  /** Prompt tokens looked up, and those found, since the start. */
  numQueried = 0;
  numHit = 0;
  readonly #pool: PagePool;
  readonly #pageSize: number;
  readonly #servesOthers: boolean;
  #hasher: PrefixHasher;
  readonly #tokens: Int32Array;

  constructor(pool: PagePool, { pageSize, fingerprint }: PrefixCacheOptions) {
    this.#pool = pool;
    this.#pageSize = pageSize;
    this.#servesOthers = fingerprint !== null;
    this.#hasher = new PrefixHasher(fingerprint ?? "");
    this.#tokens = new Int32Array(pageSize);
  }

  /** Pages that hold the sequence's beginning, in order; not acquired. */
  find(sequence: Sequence): number[] {
    const pages: number[] = [];
    const { request } = sequence;
    // Tokens that the prompt's scores still need are computed.
    const numUsable = Math.min(sequence.numTokens - 1, request.numScored);
    const numFull = Math.min(Math.floor(numUsable / this.#pageSize), this.#numNamed(request));
    for (let i = 0; i < numFull; i++) {
      const name = this.#name(sequence, i);
      const page = this.#pool.find(name, this.#tokens);
      if (page === null) break;
      pages.push(page);
    }
    return pages;
  }

  /** Takes note of a sequence that begins with `numHits` pages found: the first that lacks some computes them for all. */
  begin(sequence: Sequence, numHits: number): void {
    const { request } = sequence;
    if (numHits < this.#numForked(request)) request.leader = sequence;
    if (request.numCachedTokens !== null) return;
    request.numCachedTokens = numHits * this.#pageSize;
    if (!this.#servesOthers) return;
    this.numQueried += request.prompt.length;
    this.numHit += request.numCachedTokens;
  }

  /**
   * Voids all names: something else decides a page's contents from now on. Sequences' own `pageNames` are void too.
   *
   * @param fingerprint As in the options, where that was not null.
   */
  restart(fingerprint: string): void {
    this.#pool.forgetAll();
    this.#hasher = new PrefixHasher(this.#servesOthers ? fingerprint : "");
  }

  /** Names the pages that the sequence has filled since it had computed `before` tokens. Unread tokens name nothing. */
  share(sequence: Sequence, before: number): void {
    const { request } = sequence;
    const numKnown = Math.min(sequence.numComputed, sequence.numTokens - sequence.numUnread);
    const end = Math.min(Math.floor(numKnown / this.#pageSize), this.#numNamed(request));
    for (let i = Math.floor(before / this.#pageSize); i < end; i++) {
      const name = this.#name(sequence, i);
      this.#pool.name(sequence.pages[i]!, name, this.#tokens);
    }
    if (request.leader === sequence && end >= this.#numForked(request)) request.leader = null;
  }

  /** Pages of the prompt that all of the request's sequences share. */
  #numForked({ sequences, prompt }: LiveRequest): number {
    return sequences.length > 1 ? Math.floor((prompt.length - 1) / this.#pageSize) : 0;
  }

  /** Most pages of a sequence that have names. */
  #numNamed(request: LiveRequest): number {
    return this.#servesOthers ? Infinity : this.#numForked(request);
  }

  /** Name of a full page; leaves its tokens in `#tokens`. */
  #name(sequence: Sequence, index: number): PageName {
    const { pageNames, request } = sequence;
    for (let i = pageNames.length; i < index; i++) this.#name(sequence, i);
    sequence.copyTokens(this.#tokens, 0, index * this.#pageSize, this.#pageSize);
    const before = index === 0 ? this.#root(request) : pageNames[index - 1]!;
    return pageNames[index] ??= this.#hasher.next(before, this.#tokens);
  }

  #root({ key, cacheSalt }: LiveRequest): PageName {
    return this.#hasher.root(this.#servesOthers ? cacheSalt : String(key));
  }
}
