/**
 * How many requests may wait, and whose. A queue that one tenant has filled still takes requests of the others, until each
 * has its share of it; so the whole may become twice as long as its limit, never more.
 *
 * @module
 */

import { OverloadedError } from "./errors.ts";
import type { Tenant } from "./types.ts";

/** Of requests that name no tenant. */
const NOBODY: Tenant = { name: "", weight: 1 };

export class QueueLimit {
  readonly #limit: number;
  /** Tenants with live requests, waiting or running. */
  readonly #tenants = new Map<string, { readonly weight: number; numLive: number }>();

  /** @param limit Requests that may wait. */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /**
   * Takes in a request.
   *
   * @param numWaiting Requests of all tenants that wait now.
   * @returns To be called once, when the request has ended.
   * @throws {OverloadedError} The queue is full, and the tenant has its share of it.
   */
  enter(tenant: Tenant = NOBODY, numWaiting: number): () => void {
    const { name, weight } = tenant;
    const own = this.#tenants.get(name) ?? { weight, numLive: 0 };
    if (numWaiting >= this.#limit && (own.numLive >= this.#shareOf(tenant) || numWaiting >= 2 * this.#limit)) {
      throw new OverloadedError(`Too many requests wait: ${numWaiting}, the limit is ${this.#limit}`);
    }
    own.numLive++;
    this.#tenants.set(name, own);
    return () => {
      if (--own.numLive === 0) this.#tenants.delete(name);
    };
  }

  /** The tenant's part of the queue, by weight among those that have requests. */
  #shareOf({ name, weight }: Tenant): number {
    let sum = weight;
    for (const [other, { weight }] of this.#tenants) if (other !== name) sum += weight;
    return this.#limit * weight / sum;
  }
}
