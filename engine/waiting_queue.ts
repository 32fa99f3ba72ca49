/**
 * Who is admitted next: by priority (lower first); among equal ones first those that were preempted, then a sequence of
 * the tenant that has had least of the engine for its weight; of a tenant's own in order of arrival.
 *
 * ```
 *  tenant  weight  service = tokens / weight   queue by priority, then arrival
 *  a       1       4000                        a7  a8  a9
 *  b       2       3500                        b2  b5            next: b2; it is charged for each token as it runs
 *  c       1       -                           (empty)           back later: service is at least that of the last admitted
 * ```
 * So no tenant saves up a claim while it asks for nothing, and each that waits gets its share: weight over the sum of
 * weights. Strict priority could still make some wait for ever; therefore one admission in sixteen goes to whoever has
 * waited longest, whatever its priority or tenant, and it then runs with the priority of those that it has passed.
 *
 * The same idea as the virtual token counter of "Fairness in Serving Large Language Models" (Sheng et al., 2024).
 *
 * @module
 */

import type { LiveRequest, Sequence } from "./sequence.ts";
import { insertInOrder, removeInOrder } from "./sequence_order.ts";

/** One admission in so many goes to the longest wait. */
const AGEING_TURNS = 16;
/** Tenants without requests that are remembered for what they had too much; above it, they are forgotten. */
const MAX_IDLE_TENANTS = 1024;

/** What a tenant has had, and its sequences that have never run. */
export interface Account {
  readonly name: string;
  /** Tokens computed and sampled for it, each divided by its weight. */
  service: number;
  readonly queue: Sequence[];
  /** Sequences waiting or running. */
  numLive: number;
}

export class WaitingQueue {
  /** Sequences waiting. */
  length = 0;
  readonly #accounts = new Map<string, Account>();
  /** Accounts whose queue is not empty. */
  readonly #backlogged = new Set<Account>();
  readonly #preempted: Sequence[] = [];
  /** Newcomers in order of arrival; some may have left meanwhile. */
  #arrivals: Sequence[] = [];
  readonly #isReady: (sequence: Sequence) => boolean;
  /** Service of the account admitted last, never falling: where a tenant begins that comes back. */
  #virtualService = 0;
  #numAdmitted = 0;
  /** Of those that could have come next, when last asked. */
  #bestPriority = Infinity;

  /** @param isReady Whether a sequence has something to do in a step that admits it; others are passed over. */
  constructor(isReady: (sequence: Sequence) => boolean) {
    this.#isReady = isReady;
  }

  /** Takes in a sequence that has never run. */
  add(sequence: Sequence): void {
    const account = this.#accountOf(sequence.request);
    account.numLive++;
    if (account.queue.length === 0) {
      account.service = Math.max(account.service, this.#virtualService);
      this.#backlogged.add(account);
    }
    insertInOrder(account.queue, sequence);
    this.length++;
    if (this.#arrivals.length > 2 * this.length + 64) this.#arrivals = this.#arrivals.filter(isNewcomer);
    this.#arrivals.push(sequence);
  }

  /** Takes in a sequence that ran until now. */
  addPreempted(sequence: Sequence): void {
    insertInOrder(this.#preempted, sequence);
    this.length++;
  }

  /** The sequence to admit next; null when none is ready. */
  next(): Sequence | null {
    const fair = this.#fairest();
    const preempted = this.#preempted.find(this.#isReady) ?? null;
    if (fair === null) {
      this.#bestPriority = Infinity;
      return preempted;
    }
    const best = preempted === null || fair.priority < preempted.priority ? fair : preempted;
    this.#bestPriority = best.priority;
    return this.#numAdmitted % AGEING_TURNS === AGEING_TURNS - 1 ? this.#oldest() : best;
  }

  /** Takes out what {@linkcode next} has given, to run. */
  admit(sequence: Sequence): void {
    this.remove(sequence);
    this.#numAdmitted++;
    // Else those that it has passed would have it preempted, again and again.
    sequence.priority = Math.min(sequence.priority, this.#bestPriority);
    if (sequence.numAdmissions > 0) return;
    this.#virtualService = Math.max(this.#virtualService, sequence.request.account!.service);
  }

  /** Takes out a sequence. */
  remove(sequence: Sequence): void {
    this.length--;
    if (sequence.numAdmissions > 0) return removeInOrder(this.#preempted, sequence);
    const account = sequence.request.account!;
    removeInOrder(account.queue, sequence);
    if (account.queue.length === 0) this.#backlogged.delete(account);
  }

  /** Takes note of tokens that were computed or sampled for a request. */
  charge({ account, tenant }: LiveRequest, numTokens: number): void {
    account!.service += numTokens / tenant.weight;
  }

  /** Takes note of a sequence that has ended. */
  leave({ request: { account } }: Sequence): void {
    if (--account!.numLive === 0 && account!.service <= this.#virtualService) this.#accounts.delete(account!.name);
  }

  /** All sequences waiting, in no order that means anything. */
  *[Symbol.iterator](): Iterator<Sequence> {
    yield* this.#preempted;
    for (const { queue } of this.#backlogged) yield* queue;
  }

  #fairest(): Sequence | null {
    let best: Sequence | null = null;
    for (const { queue } of this.#backlogged) {
      const first = queue.find(this.#isReady);
      if (first !== undefined && (best === null || isFairer(first, best))) best = first;
    }
    return best;
  }

  /** There is a newcomer that is ready. */
  #oldest(): Sequence {
    const numGone = this.#arrivals.findIndex(isNewcomer);
    if (numGone > 0) this.#arrivals.splice(0, numGone);
    let oldest = this.#arrivals.find((sequence) => isNewcomer(sequence) && this.#isReady(sequence))!;
    for (const sequence of this.#preempted) {
      if (this.#isReady(sequence) && sequence.request.key < oldest.request.key) oldest = sequence;
    }
    return oldest;
  }

  #accountOf(request: LiveRequest): Account {
    if (request.account !== null) return request.account;
    let account = this.#accounts.get(request.tenant.name);
    if (account === undefined) {
      if (this.#accounts.size >= MAX_IDLE_TENANTS) this.#forgetIdle();
      account = { name: request.tenant.name, service: 0, queue: [], numLive: 0 };
      this.#accounts.set(account.name, account);
    }
    return request.account = account;
  }

  #forgetIdle(): void {
    for (const { name, numLive } of this.#accounts.values()) if (numLive === 0) this.#accounts.delete(name);
  }
}

function isFairer(a: Sequence, b: Sequence): boolean {
  const [one, other] = [a.request, b.request];
  return (a.priority - b.priority || one.account!.service - other.account!.service || one.key - other.key) < 0;
}

function isNewcomer({ state, numAdmissions }: Sequence): boolean {
  return state === "waiting" && numAdmissions === 0;
}
