/** A request's sequences share its prompt: computed once, in pages that all of them read. */

import { assertEquals, assertGreater } from "@std/assert";
import { expectedOutput, greedy } from "./_fake_model.ts";
import { Harness } from "./_harness.ts";

const ROOMY = { maxNumSeqs: 8, maxNumBatchedTokens: 16, pageSize: 4, numPages: 64 };
const SAMPLED = greedy({ temperature: 1, seed: 7, maxTokens: 6, ignoreEos: true });
const tokens = (length: number, first = 2) => Array.from({ length }, (_, i) => first + (i * 7) % 30);

const KINDS = [
  { caches: false, looksAhead: false, checksPages: true },
  { caches: true, looksAhead: false, checksPages: true },
  { caches: false, looksAhead: true, checksPages: true },
  { caches: true, looksAhead: true, checksPages: true },
];

function checkTokens(harness: Harness, key: number): void {
  const { prompt, sampling } = harness.transcripts.get(key)!;
  harness.tokens(key).forEach((found, index) => assertEquals(found, expectedOutput(prompt, sampling, index)));
}

for (const kind of KINDS) {
  const how = `${kind.caches ? "with" : "without"} prefix caching${kind.looksAhead ? " and with look-ahead" : ""}`;

  Deno.test(`StepLoop computes a prompt once for n sequences ${how}`, () => {
    for (let length = 1; length <= 14; length++) {
      const harness = new Harness(ROOMY, kind);
      const key = harness.submit(tokens(length), { ...SAMPLED, n: 4 });
      const numTokens: number[] = [];
      harness.runner.onStep = () => numTokens.push(harness.runner.buffer.header[1]!);
      harness.finish();
      checkTokens(harness, key);
      // The prompt, the part of it that fills no page for each sister, and all output but each sequence's last token.
      const own = length - Math.floor((length - 1) / 4) * 4;
      assertEquals(numTokens.reduce((sum, count) => sum + count), length + 3 * own + 4 * 5);
      assertEquals(harness.transcripts.get(key)!.usage!.cachedTokens, 0);
    }
  });

  Deno.test(`StepLoop forks a prompt whose first sequence ends with its first token ${how}`, () => {
    const harness = new Harness(ROOMY, kind);
    const key = harness.submit(tokens(10), { ...SAMPLED, n: 5, maxTokens: 1 });
    const queryLens: number[][] = [];
    while (!harness.loop.isIdle) {
      harness.step();
      if (harness.runner.numSteps > queryLens.length) queryLens.push(harness.runner.queryLens);
    }
    assertEquals(queryLens, [[10], [2, 2, 2, 2]]);
    checkTokens(harness, key);
    assertEquals(harness.loop.numFreePages, ROOMY.numPages);
  });

  Deno.test(`StepLoop forks while others run, are preempted and take what it shares ${how}`, () => {
    for (let numPages = 6; numPages <= 14; numPages++) {
      const harness = new Harness({ ...ROOMY, numPages, maxNumBatchedTokens: 9 }, kind);
      const keys = [0, 1, 2].map((i) => harness.submit(tokens(11, 2 + i), { ...SAMPLED, n: 3 }));
      for (let i = 0; i < 3; i++) harness.step();
      // It goes first and needs all of the smallest pool.
      keys.push(harness.submit(tokens(15, 5), { ...SAMPLED, n: 2, maxTokens: 9 }, { priority: -1 }));
      harness.finish();
      for (const key of keys) checkTokens(harness, key);
      if (numPages === 6) assertGreater(harness.counters.get("preemptionsTotal"), 0);
    }
  });

  Deno.test(`StepLoop.abort() of a request that forks leaves no page behind at any step ${how}`, () => {
    for (let step = 0; step < 9; step++) {
      const harness = new Harness({ ...ROOMY, maxNumBatchedTokens: 8 }, kind);
      const aborted = harness.submit(tokens(14), { ...SAMPLED, n: 3 });
      const other = harness.submit(tokens(14), { ...SAMPLED, n: 2 });
      for (let i = 0; i < step; i++) harness.step();
      harness.abort(aborted);
      harness.finish();
      checkTokens(harness, other);
    }
  });
}

Deno.test("StepLoop lets others run while sequences wait for their prompt", () => {
  const harness = new Harness(ROOMY);
  const long = harness.submit(tokens(30), { ...SAMPLED, n: 2 });
  const short = harness.submit(tokens(2, 9), SAMPLED);
  harness.step();
  harness.step();
  assertEquals(harness.runner.queryLens, [14, 2]);
  harness.finish();
  checkTokens(harness, long);
  checkTokens(harness, short);
});

Deno.test("StepLoop shares a forked prompt with no other request when prefix caching is off", () => {
  const harness = new Harness(ROOMY, { caches: false });
  const first = harness.submit(tokens(10), { ...SAMPLED, n: 2 });
  harness.finish();
  const second = harness.submit(tokens(10), { ...SAMPLED, n: 2 });
  harness.step();
  assertEquals(harness.runner.queryLens, [10]);
  harness.finish();
  checkTokens(harness, first);
  checkTokens(harness, second);
  assertEquals([harness.counters.get("prefixCacheQueriesTotal"), harness.counters.get("prefixCacheHitsTotal")], [0, 0]);
});
