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

import type { HostPage, HostTier } from "./host_tier.ts";
import type { PagePool } from "./page_pool.ts";
import { type PageName, PrefixHasher } from "./prefix_hash.ts";
import type { LiveRequest, Sequence } from "./sequence.ts";

export interface PrefixCacheOptions {
  /** Tokens of a page, by kv index. */
  readonly pageSizes: readonly number[];
  /** What beside the tokens and the kv index decides a page's contents; null: pages serve the sequences of one request only. */
  readonly fingerprint: string | null;
  /** Where pages go that the pool gives up; null: nowhere. */
  readonly hostTier?: HostTier | null;
}

/** Full pages that hold a sequence's beginning, in order: in the pool, or in the host tier. */
export type Hit = { readonly page: number } | HostPage;

export class PrefixCache {
  /** Prompt tokens looked up, and those found, since the start. */
  numQueried = 0;
  numHit = 0;
  readonly #pool: PagePool;
  /** By kv index, as what follows. */
  readonly #pageSizes: readonly number[];
  readonly #servesOthers: boolean;
  readonly #hostTier: HostTier | null;
  #hashers: readonly PrefixHasher[];
  readonly #tokens: readonly Int32Array[];

  constructor(pool: PagePool, { pageSizes, fingerprint, hostTier = null }: PrefixCacheOptions) {
    this.#pool = pool;
    this.#pageSizes = pageSizes;
    this.#servesOthers = fingerprint !== null;
    this.#hostTier = hostTier;
    this.#hashers = this.#makeHashers(fingerprint ?? "");
    this.#tokens = pageSizes.map((pageSize) => new Int32Array(pageSize));
  }

  /** Pages that hold the sequence's beginning; not acquired. */
  find(sequence: Sequence): Hit[] {
    const hits: Hit[] = [];
    const { request } = sequence;
    // Tokens that the prompt's scores still need are computed.
    const numUsable = Math.min(sequence.numTokens - 1, request.numScored);
    const pageSize = this.#pageSizes[request.kvIndex]!;
    const tokens = this.#tokens[request.kvIndex]!;
    const numFull = Math.min(Math.floor(numUsable / pageSize), this.#numNamed(request));
    for (let i = 0; i < numFull; i++) {
      const name = this.#name(sequence, i);
      const page = this.#pool.find(name, tokens);
      const hit = page === null ? this.#hostTier?.find(name, tokens) ?? null : { page };
      if (hit === null) break;
      hits.push(hit);
    }
    return this.#cutDear(hits, pageSize);
  }

  /** Leaves out what is cheaper to compute: all from the first page on that is in the host tier. */
  #cutDear(hits: Hit[], pageSize: number): Hit[] {
    const first = hits.findIndex((hit) => !("page" in hit));
    if (first < 0) return hits;
    const numSaved = hits.reduce((n, hit) => n + ("page" in hit ? 0 : 1), 0);
    return this.#hostTier!.isWorthRestoring(numSaved, (hits.length - first) * pageSize) ? hits : hits.slice(0, first);
  }

  /**
   * Takes the pages that a sequence begins with: acquires those of the pool, then brings back the others into pages that it
   * allocates, which could void names otherwise.
   *
   * @param sequence Its page ids are set.
   * @returns The transfer that the last of them arrives with; 0: they are there.
   */
  take(hits: readonly Hit[], { pages, request: { kvIndex } }: Sequence): number {
    const saved = hits.filter((hit) => !("page" in hit)) as HostPage[];
    for (const hit of hits) if ("page" in hit) this.#pool.acquire(hit.page);
    this.#hostTier?.hold(saved);
    let arrival = 0;
    hits.forEach((hit, i) => {
      pages[i] = "page" in hit ? hit.page : this.#restore(hit, kvIndex);
      arrival = Math.max(arrival, this.#hostTier?.arrivalOf(pages[i]) ?? 0);
    });
    return arrival;
  }

  #restore(saved: HostPage, kvIndex: number): number {
    const page = this.#pool.allocate(kvIndex);
    this.#hostTier!.restore(saved, page);
    this.#pool.name(page, saved.name, saved.tokens);
    return page;
  }

  /** Voids the names of a sequence's pages: what they hold is worth nothing. */
  forget(sequence: Sequence): void {
    for (const page of sequence.pages.subarray(0, sequence.numPages)) this.#pool.forget(page);
    for (const name of sequence.pageNames) this.#hostTier?.forget(name);
  }

  /** Takes note of a sequence that begins with `numHits` pages found: the first that lacks some computes them for all. */
  begin(sequence: Sequence, numHits: number): void {
    const { request } = sequence;
    if (numHits < this.#numForked(request)) request.leader = sequence;
    if (request.numCachedTokens !== null) return;
    request.numCachedTokens = numHits * this.#pageSizes[request.kvIndex]!;
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
    this.#hostTier?.forgetAll();
    this.#hashers = this.#makeHashers(this.#servesOthers ? fingerprint : "");
  }

  /** Names the pages that the sequence has filled since it had computed `before` tokens. Unread tokens name nothing. */
  share(sequence: Sequence, before: number): void {
    const { request } = sequence;
    const numKnown = Math.min(sequence.numComputed, sequence.numTokens - sequence.numUnread);
    const pageSize = this.#pageSizes[request.kvIndex]!;
    const end = Math.min(Math.floor(numKnown / pageSize), this.#numNamed(request));
    for (let i = Math.floor(before / pageSize); i < end; i++) {
      const name = this.#name(sequence, i);
      this.#pool.name(sequence.pages[i]!, name, this.#tokens[request.kvIndex]!);
    }
    if (request.leader === sequence && end >= this.#numForked(request)) request.leader = null;
  }

  /** Pages of the prompt that all of the request's sequences share. */
  #numForked({ sequences, prompt, kvIndex }: LiveRequest): number {
    return sequences.length > 1 ? Math.floor((prompt.length - 1) / this.#pageSizes[kvIndex]!) : 0;
  }

  /** Most pages of a sequence that have names. */
  #numNamed(request: LiveRequest): number {
    return this.#servesOthers ? Infinity : this.#numForked(request);
  }

  /** Pages of different KV dtypes never have the same name. */
  #makeHashers(fingerprint: string): PrefixHasher[] {
    return this.#pageSizes.map((_, kvIndex) => new PrefixHasher(`${fingerprint} ${kvIndex}`));
  }

  /** Name of a full page; leaves its tokens in those of its kv index. */
  #name(sequence: Sequence, index: number): PageName {
    const { pageNames, request } = sequence;
    for (let i = pageNames.length; i < index; i++) this.#name(sequence, i);
    const pageSize = this.#pageSizes[request.kvIndex]!;
    const tokens = this.#tokens[request.kvIndex]!;
    sequence.copyTokens(tokens, 0, index * pageSize, pageSize);
    const before = index === 0 ? this.#root(request) : pageNames[index - 1]!;
    return pageNames[index] ??= this.#hashers[request.kvIndex]!.next(before, tokens);
  }

  #root({ key, cacheSalt, kvIndex }: LiveRequest): PageName {
    return this.#hashers[kvIndex]!.root(this.#servesOthers ? cacheSalt : String(key));
  }
}
