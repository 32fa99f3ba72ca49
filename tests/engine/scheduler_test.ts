import { assertEquals, assertMatch } from "@std/assert";
import { PagePool } from "../../engine/page_pool.ts";
import { PrefixCache } from "../../engine/prefix_cache.ts";
import { Scheduler, type SchedulerLimits } from "../../engine/scheduler.ts";
import { LiveRequest, type Sequence } from "../../engine/sequence.ts";
import { greedy } from "./_fake_model.ts";

const LIMITS: SchedulerLimits = {
  pageSizes: [4],
  maxNumSeqs: 4,
  maxNumBatchedTokens: 10,
  longPromptTokens: 10,
  maxLogitEdits: 100,
  maxScores: 5,
};

/** A scheduler whose sequences are named by letters and sample a token whenever they can. */
class Bench {
  readonly pool: PagePool;
  readonly scheduler: Scheduler;
  readonly #cache: PrefixCache;
  readonly #names = new Map<Sequence, string>();

  constructor(
    numPages: number,
    { fingerprint = null, ...limits }: Partial<SchedulerLimits> & { fingerprint?: string | null } = {},
    edits: Record<string, number> = {},
  ) {
    this.pool = new PagePool(numPages, 4);
    this.scheduler = new Scheduler(
      this.pool,
      { ...LIMITS, ...limits },
      (sequence) => edits[this.#names.get(sequence)!] ?? 0,
      this.#cache = new PrefixCache(this.pool, { pageSizes: [4], fingerprint }),
    );
  }

  /** Prompts of one token id begin alike. */
  add(name: string, promptTokens: number, maxTokens = 100, { tokenId = 0, priority = 0 } = {}): Sequence {
    const sampling = greedy({ maxTokens });
    const prompt = new Int32Array(promptTokens).fill(tokenId);
    const [sequence] = new LiveRequest(this.#names.size, name, prompt, sampling, priority).sequences;
    this.#names.set(sequence!, name);
    this.scheduler.add(sequence!);
    return sequence!;
  }

  /** Runs a step; for example "a1 b3": one token of a, three of b. */
  step(): string {
    const batch = this.scheduler.schedule();
    const text = batch.map((sequence) => `${this.#names.get(sequence)}${sequence.queryLen}`).join(" ");
    for (const sequence of batch) {
      const before = sequence.numComputed;
      sequence.numComputed += sequence.queryLen;
      this.#cache.share(sequence, before);
      if (sequence.numPending === 0) sequence.output.push(0);
    }
    return text;
  }

  names(sequences: Iterable<Sequence>): string {
    return [...sequences].map((sequence) => this.#names.get(sequence)).join("");
  }
}

Deno.test("Scheduler.schedule() takes decodes first, then chunks of prefill in order of arrival", () => {
  const bench = new Bench(100);
  bench.add("a", 3);
  assertEquals(bench.step(), "a3");
  bench.add("b", 12);
  bench.add("c", 5);
  assertEquals(bench.step(), "a1 b9");
  assertEquals(bench.step(), "a1 b3 c5");
  assertEquals(bench.step(), "a1 b1 c1");
});

// After the stalls that a burst of long prompts causes: a decode never waits for a prefill.
Deno.test("Scheduler.schedule() lets every decode advance in every step while long prompts come", () => {
  const bench = new Bench(1000, { maxNumSeqs: 10 });
  bench.add("a", 2);
  bench.add("b", 2);
  bench.step();
  for (const name of "cdefgh") bench.add(name, 50);
  for (let i = 0; i < 20; i++) assertMatch(bench.step(), /^a1 b1 /);
});

Deno.test("Scheduler.schedule() gives prompts beside decodes what such a step has, and all of it without decodes", () => {
  const bench = new Bench(1000, { maxNumSeqs: 10, mixedStepTokens: (numDecodes) => 2 + 2 * numDecodes });
  bench.add("a", 3);
  bench.add("b", 12);
  assertEquals(bench.step(), "a3 b7");
  bench.add("c", 3);
  assertEquals([bench.step(), bench.step(), bench.step()], ["a1 b2 c1", "a1 b2 c1", "a1 b1 c1"]);
  // More than any step has, and fewer than decode.
  const wide = new Bench(1000, { mixedStepTokens: () => 50 });
  const narrow = new Bench(1000, { mixedStepTokens: () => 1 });
  for (const one of [wide, narrow]) {
    one.add("a", 1);
    one.add("b", 1);
    one.step();
    one.add("c", 20);
  }
  assertEquals([wide.step(), narrow.step()], ["a1 b1 c8", "a1 b1"]);
});

// A prompt of many chunks is no reason for a short one to wait.
Deno.test("Scheduler.schedule() leaves half of the budget to short prompts while a long one is under way", () => {
  const bench = new Bench(1000, { maxNumSeqs: 10 });
  bench.add("a", 100);
  assertEquals([bench.step(), bench.step()], ["a10", "a10"]);
  bench.add("b", 3);
  bench.add("c", 7);
  assertEquals(bench.step(), "a5 b3 c2");
  bench.add("d", 4);
  // Of 9 tokens 5 are held by a; the others are c's, which came first.
  assertEquals([bench.step(), bench.step(), bench.step()], ["b1 a5 c4", "b1 c1 a4 d4", "b1 c1 d1 a7"]);
});

Deno.test("Scheduler.schedule() computes several long prompts one after another, the first at half the budget at least", () => {
  const bench = new Bench(1000, { maxNumSeqs: 10 });
  bench.add("a", 26);
  bench.step();
  bench.add("b", 40);
  bench.add("c", 15);
  // While more than a step's budget of a is left, no other long prompt gets pages; b's first chunk is a newcomer's.
  assertEquals([bench.step(), bench.step(), bench.step()], ["a10", "a5 b5", "a1 b9"]);
  assertEquals(bench.names(bench.scheduler.running), "ab");
});

Deno.test("Scheduler.schedule() lets short and more urgent newcomers pass long ones that wait for a long one", () => {
  const bench = new Bench(1000, { maxNumSeqs: 10 });
  bench.add("a", 50);
  bench.step();
  for (const [name, length] of [["b", 40], ["c", 3], ["d", 11]] as const) bench.add(name, length);
  assertEquals(bench.step(), "a7 c3");
  bench.add("e", 40, 100, { priority: -1 });
  assertEquals(bench.step(), "c1 a5 e4");
  assertEquals(bench.names(bench.scheduler.waiting), "bd");
});

Deno.test("Scheduler.schedule() holds no long prompt back that the prefix cache makes short", () => {
  const bench = new Bench(1000, { maxNumSeqs: 10, fingerprint: "f" });
  bench.add("a", 20);
  assertEquals([bench.step(), bench.step()], ["a10", "a10"]);
  bench.add("b", 50, 100, { tokenId: 7 });
  bench.step();
  bench.add("c", 20);
  assertEquals(bench.step(), "a1 b5 c4");
});

Deno.test("Scheduler.schedule() admits no more than maxNumSeqs, and the next when one finishes", () => {
  const bench = new Bench(100, { maxNumSeqs: 2 });
  const a = bench.add("a", 1);
  bench.add("b", 1);
  bench.add("c", 1);
  assertEquals(bench.step(), "a1 b1");
  bench.scheduler.finish(a);
  assertEquals(bench.step(), "b1 c1");
});

Deno.test("Scheduler.schedule() admits a sequence when its prompt and one token fit, and leaves growers a page", () => {
  const bench = new Bench(5);
  bench.add("a", 7);
  // 8 tokens: two pages. One more of the three left is a's.
  const b = bench.add("b", 8);
  const c = bench.add("c", 1);
  assertEquals(bench.step(), "a7");
  assertEquals(bench.names(bench.scheduler.waiting), "bc");
  bench.scheduler.finish(b);
  assertEquals(bench.step(), "a1 c1");
  assertEquals([c.numPages, bench.pool.numFree], [1, 2]);
});

Deno.test("Scheduler.schedule() takes all pages for a sequence that never asks for more", () => {
  const bench = new Bench(4);
  bench.add("a", 7, 2);
  bench.add("b", 7, 1);
  assertEquals(bench.step(), "a7 b3");
  assertEquals(bench.pool.numFree, 0);
});

Deno.test("Scheduler.schedule() preempts the youngest when the pool is empty, and takes it up again first", () => {
  const bench = new Bench(4, { maxNumSeqs: 2 });
  const a = bench.add("a", 2);
  const b = bench.add("b", 3);
  bench.add("c", 1);
  bench.step();
  for (let i = 0; i < 100 && bench.scheduler.numPreemptions === 0; i++) bench.step();
  assertEquals([a.state, b.state, b.numComputed, b.numPages], ["running", "waiting", 0, 0]);
  const numTokens = b.numTokens;
  assertEquals(bench.names(bench.scheduler.waiting), "bc");
  bench.scheduler.finish(a);
  // One page is left, which is b's for its next tokens.
  assertEquals([bench.step(), bench.pool.numFree], [`b${numTokens}`, 1]);
  assertEquals(bench.scheduler.numPreemptions, 1);
});

Deno.test("Scheduler.schedule() preempts a prefilling newcomer rather than an older decode", () => {
  const bench = new Bench(14, { maxNumBatchedTokens: 4 });
  const a = bench.add("a", 4);
  const b = bench.add("b", 40);
  assertEquals([bench.step(), bench.step()], ["a4", "a1 b3"]);
  for (let i = 0; i < 20 && bench.scheduler.numPreemptions === 0; i++) bench.step();
  assertEquals([a.state, b.state, b.output.length], ["running", "waiting", 0]);
});

Deno.test("Scheduler.schedule() always advances the oldest", () => {
  const bench = new Bench(6);
  const sequences = [..."abcd"].map((name) => bench.add(name, 3, 20));
  let steps = 0;
  while (!bench.scheduler.isIdle) {
    const oldest = bench.scheduler.running[0];
    const before = oldest?.numComputed;
    bench.step();
    if (oldest) assertEquals(oldest.numComputed > before!, true);
    for (const sequence of sequences) if (sequence.output.length === 20) bench.scheduler.finish(sequence);
    assertEquals(++steps < 1000, true);
  }
  assertEquals(bench.pool.numFree, 6);
});

Deno.test("Scheduler.schedule() reserves logit edits while a sequence runs", () => {
  const bench = new Bench(100, {}, { a: 60, b: 50, c: 40 });
  const a = bench.add("a", 1);
  bench.add("b", 1);
  bench.add("c", 1);
  assertEquals(bench.step(), "a1");
  bench.scheduler.finish(a);
  assertEquals(bench.step(), "b1 c1");
});

Deno.test("Scheduler.finish() takes a sequence out wherever it is, once", () => {
  const bench = new Bench(10, { maxNumSeqs: 1 });
  const a = bench.add("a", 1);
  const b = bench.add("b", 1);
  bench.step();
  for (const sequence of [b, a, a, b]) bench.scheduler.finish(sequence);
  assertEquals([bench.scheduler.isIdle, bench.pool.numFree, bench.scheduler.numRequestsRunning], [true, 10, 0]);
});
