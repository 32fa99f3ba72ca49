/** The scheduler against its definition, written with lists and searches, at random. */

import { assertEquals, assertGreater } from "@std/assert";
import fc from "fast-check";
import { growthReserve } from "../../engine/growth_reserve.ts";
import { PagePool } from "../../engine/page_pool.ts";
import { PrefixCache } from "../../engine/prefix_cache.ts";
import { Scheduler } from "../../engine/scheduler.ts";
import { LiveRequest, type Sequence } from "../../engine/sequence.ts";
import { greedy } from "./_fake_model.ts";

interface Limits {
  readonly pageSize: number;
  readonly numPages: number;
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
  readonly tokensPerDecode: number | null;
}

/** A request of one sequence. */
interface Entry {
  readonly key: number;
  readonly tenant: string;
  readonly weight: number;
  readonly promptTokens: number;
  readonly maxTokens: number;
  priority: number;
  numOutput: number;
  numComputed: number;
  numEverComputed: number;
  numPages: number;
  hasRun: boolean;
}

const inOrder = (a: Entry, b: Entry) => a.priority - b.priority || a.key - b.key;
const numTokens = (entry: Entry) => entry.promptTokens + entry.numOutput;
const numPending = (entry: Entry) => numTokens(entry) - entry.numComputed;
const maxKvTokens = (entry: Entry) => entry.promptTokens + entry.maxTokens - 1;

/** What `Scheduler` promises, without prefix caching. */
class SimpleScheduler {
  running: Entry[] = [];
  waiting: Entry[] = [];
  numFree: number;
  numPreemptions = 0;
  readonly #service = new Map<string, number>();
  #virtualService = 0;
  #numAdmitted = 0;

  constructor(readonly limits: Limits) {
    this.numFree = limits.numPages;
  }

  add(entry: Entry): void {
    const isBack = !this.waiting.some(({ tenant, hasRun }) => tenant === entry.tenant && !hasRun);
    const service = this.#service.get(entry.tenant) ?? 0;
    this.#service.set(entry.tenant, isBack ? Math.max(service, this.#virtualService) : service);
    this.waiting.push(entry);
  }

  finish(entry: Entry): void {
    if (this.running.includes(entry)) this.numFree += entry.numPages;
    this.running = this.running.filter((other) => other !== entry);
    this.waiting = this.waiting.filter((other) => other !== entry);
  }

  /** Each sequence of the step and its tokens. */
  schedule(): [Entry, number][] {
    const batch: [Entry, number][] = [];
    let budget = this.limits.maxNumBatchedTokens;
    const take = (entry: Entry, to = batch) => {
      const count = Math.min(numPending(entry), budget);
      budget -= count;
      to.push([entry, count]);
      this.#charge(entry, count);
    };
    for (const entry of this.running.toSorted(inOrder)) {
      if (numPending(entry) === 1 && this.#makeRoom(entry)) take(entry);
    }
    const { tokensPerDecode } = this.limits;
    if (batch.length > 0 && tokensPerDecode !== null) {
      budget = Math.min(budget, (tokensPerDecode - 1) * batch.length);
    }
    // The first prompt under way holds half, others what they need of the rest; then come newcomers; what is left goes to
    // the prompts in order.
    const holds: [Entry, number][] = [];
    for (const entry of this.running.toSorted(inOrder)) {
      if (numPending(entry) === 1 || budget === 0) continue;
      const count = Math.min(numPending(entry), holds.length === 0 ? Math.ceil(budget / 2) : budget);
      holds.push([entry, count]);
      budget -= count;
    }
    const newcomers: [Entry, number][] = [];
    while (budget > 0 && this.running.length < this.limits.maxNumSeqs) {
      const entry = this.#admitNext(new Map(newcomers));
      if (entry === null) break;
      take(entry, newcomers);
    }
    for (const [entry, count] of holds) {
      budget += count;
      if (budget > 0) take(entry);
    }
    return [...batch, ...newcomers];
  }

  #charge(entry: Entry, count: number): void {
    const numNew = Math.max(0, entry.numComputed + count - Math.max(entry.numComputed, entry.numEverComputed));
    const numSampled = count === numPending(entry) ? 1 : 0;
    entry.numEverComputed = Math.max(entry.numEverComputed, entry.numComputed + count);
    this.#service.set(entry.tenant, this.#service.get(entry.tenant)! + (numNew + numSampled) / entry.weight);
  }

  /** False: it was preempted, now or for one before it. */
  #makeRoom(entry: Entry): boolean {
    if (!this.running.includes(entry)) return false;
    if (this.#pages(numTokens(entry)) <= entry.numPages) return true;
    while (this.numFree === 0) {
      const last = this.running.toSorted(inOrder).at(-1)!;
      this.numFree += last.numPages;
      Object.assign(last, { numPages: 0, numComputed: 0 });
      this.running = this.running.filter((other) => other !== last);
      this.waiting.push(last);
      this.numPreemptions++;
      if (last === entry) return false;
    }
    this.numFree--;
    entry.numPages++;
    return true;
  }

  /** Whether a long prompt lets one under way go first; `numTaken` are the step's tokens of those admitted in it. */
  #isHeldBack(entry: Entry, numTaken: ReadonlyMap<Entry, number>): boolean {
    const isLong = (one: Entry) => numPending(one) - (numTaken.get(one) ?? 0) > this.limits.maxNumBatchedTokens;
    return isLong(entry) && this.running.some((one) => one.priority <= entry.priority && isLong(one));
  }

  #admitNext(numTaken: ReadonlyMap<Entry, number>): Entry | null {
    const service = (entry: Entry) => this.#service.get(entry.tenant)!;
    const ready = this.waiting.filter((entry) => !this.#isHeldBack(entry, numTaken));
    const ordered = ready.toSorted(inOrder);
    const firsts = [...Map.groupBy(ordered.filter(({ hasRun }) => !hasRun), ({ tenant }) => tenant).values()];
    const [fair] = firsts.map(([first]) => first!).sort((a, b) =>
      a.priority - b.priority || service(a) - service(b) || a.key - b.key
    );
    const preempted = ordered.find(({ hasRun }) => hasRun);
    let next = fair === undefined || preempted !== undefined && preempted.priority <= fair.priority ? preempted : fair;
    const bestPriority = next?.priority;
    if (fair !== undefined && this.#numAdmitted % 16 === 15) [next] = ready.toSorted((a, b) => a.key - b.key);
    if (next === undefined) return null;
    const numPages = this.#pages(Math.min(numTokens(next) + 1, maxKvTokens(next)));
    if (numPages + this.#reserve() > this.numFree) return null;
    if (!next.hasRun) this.#virtualService = Math.max(this.#virtualService, service(next));
    this.#numAdmitted++;
    this.waiting = this.waiting.filter((other) => other !== next);
    this.running.push(next);
    this.numFree -= numPages;
    return Object.assign(next, { numPages, hasRun: true, priority: fair === undefined ? next.priority : bestPriority });
  }

  #reserve(): number {
    const left = this.running.map((entry) => this.#pages(maxKvTokens(entry)) - entry.numPages);
    return growthReserve({
      numGrowing: left.filter((count) => count > 0).length,
      numPagesLeft: left.reduce((sum, count) => sum + count, 0),
      numPages: this.limits.numPages,
      pageSize: this.limits.pageSize,
    });
  }

  #pages(tokens: number): number {
    return Math.ceil(tokens / this.limits.pageSize);
  }
}

/** Both schedulers on the same requests. */
class Pair {
  readonly simple: SimpleScheduler;
  readonly real: Scheduler;
  readonly pool: PagePool;
  readonly entries = new Map<Sequence, Entry>();

  constructor(readonly limits: Limits) {
    this.simple = new SimpleScheduler(limits);
    this.pool = new PagePool(limits.numPages, limits.pageSize);
    const cache = new PrefixCache(this.pool, { pageSizes: [limits.pageSize], fingerprint: null });
    const { pageSize, tokensPerDecode } = limits;
    const mixedStepTokens = tokensPerDecode === null ? undefined : (numDecodes: number) => tokensPerDecode * numDecodes;
    this.real = new Scheduler(
      this.pool,
      {
        ...limits,
        longPromptTokens: limits.maxNumBatchedTokens,
        mixedStepTokens,
        pageSizes: [pageSize],
        maxLogitEdits: 0,
        maxScores: 0,
      },
      () => 0,
      cache,
    );
  }

  add(
    key: number,
    request: { promptTokens: number; maxTokens: number; priority: number; tenant: number },
  ): void {
    const { promptTokens, maxTokens, priority } = request;
    if (Math.ceil((promptTokens + maxTokens - 1) / this.limits.pageSize) > this.limits.numPages) return;
    const tenant = { name: `${request.tenant}`, weight: 2 ** request.tenant };
    const live = new LiveRequest(key, "", new Int32Array(promptTokens), greedy({ maxTokens }), priority, "", tenant);
    const entry: Entry = {
      ...{ key, tenant: tenant.name, weight: tenant.weight, promptTokens, maxTokens, priority },
      ...{ numOutput: 0, numComputed: 0, numEverComputed: 0, numPages: 0, hasRun: false },
    };
    this.entries.set(live.sequences[0]!, entry);
    this.real.add(live.sequences[0]!);
    this.simple.add(entry);
  }

  step(): void {
    const batch = [...this.real.schedule()];
    const expected = this.simple.schedule();
    assertEquals(
      batch.map((sequence) => [sequence.request.key, sequence.queryLen]),
      expected.map(([entry, count]) => {
        return [entry.key, count];
      }),
    );
    for (const [i, [entry, count]] of expected.entries()) {
      const sequence = batch[i]!;
      sequence.numComputed += count;
      entry.numComputed += count;
      if (numPending(entry) > 0) continue;
      sequence.output.push(0);
      if (++entry.numOutput === entry.maxTokens) this.finish(sequence);
    }
  }

  finish(sequence: Sequence): void {
    this.real.finish(sequence);
    this.simple.finish(this.entries.get(sequence)!);
    this.entries.delete(sequence);
  }

  compare(): void {
    const keys = (entries: Iterable<Entry>) => [...entries].map(({ key }) => key);
    const { real, simple } = this;
    assertEquals(real.running.map((sequence) => sequence.request.key), keys(simple.running.toSorted(inOrder)));
    assertEquals(new Set([...real.waiting].map((sequence) => sequence.request.key)), new Set(keys(simple.waiting)));
    assertEquals(real.waiting.length, simple.waiting.length);
    assertEquals([this.pool.numFree, real.numPreemptions], [simple.numFree, simple.numPreemptions]);
  }
}

const limits = fc.record({
  pageSize: fc.integer({ min: 1, max: 4 }),
  numPages: fc.integer({ min: 3, max: 60 }),
  maxNumSeqs: fc.integer({ min: 1, max: 8 }),
  extraTokens: fc.integer({ min: 0, max: 12 }),
  tokensPerDecode: fc.option(fc.integer({ min: 1, max: 6 })),
}).map(({ extraTokens, ...rest }) => ({ ...rest, maxNumBatchedTokens: rest.maxNumSeqs + extraTokens }));

const operation = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      promptTokens: fc.integer({ min: 1, max: 20 }),
      maxTokens: fc.integer({ min: 1, max: 20 }),
      priority: fc.constantFrom(0, 0, 0, 1, -1),
      tenant: fc.nat(3),
    }),
  },
  { weight: 1, arbitrary: fc.nat(30) },
  { weight: 7, arbitrary: fc.constant("step" as const) },
);

/** Longer runs: OCTAVO_MODEL_RUNS=20000 is above 2e6 operations. */
const NUM_RUNS = Number(Deno.env.get("OCTAVO_MODEL_RUNS") ?? 300);

Deno.test("Scheduler does what its definition says at random, with tenants, priorities, aborts and full pools", () => {
  let numOperations = 0;
  let numPreemptions = 0;
  fc.assert(
    fc.property(limits, fc.array(operation, { maxLength: 300, size: "max" }), (config, operations) => {
      const pair = new Pair(config);
      numOperations += operations.length;
      for (const [key, op] of operations.entries()) {
        if (op === "step") pair.step();
        else if (typeof op === "object") pair.add(key, op);
        else {
          const sequence = [...pair.entries.keys()][op];
          if (sequence !== undefined) pair.finish(sequence);
        }
        pair.compare();
      }
      for (let steps = 0; pair.entries.size > 0; steps++) {
        assertEquals(steps < 5000, true, "it comes to an end");
        pair.step();
        pair.compare();
      }
      assertEquals([pair.pool.numFree, pair.real.isIdle], [config.numPages, true]);
      numPreemptions += pair.real.numPreemptions;
    }),
    { numRuns: NUM_RUNS, seed: 20260103 },
  );
  if (NUM_RUNS > 300) console.log({ numOperations, numPreemptions });
  assertGreater(numPreemptions, 100);
});
