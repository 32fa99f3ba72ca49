/** Faults that have taken other engines down, each at every step and state where it can strike. */

import { assert, assertEquals, assertGreater, assertThrows } from "@std/assert";
import { expectedOutput, greedy } from "./_fake_model.ts";
import { Harness } from "./_harness.ts";

const ROOMY = { maxNumSeqs: 4, maxNumBatchedTokens: 8, pageSize: 4, numPages: 64 };
const LONG = greedy({ maxTokens: 12, ignoreEos: true });
const tokens = (length: number, first = 2) => Array.from({ length }, (_, i) => 2 + (first + i * 7) % 30);
const KINDS = [
  { caches: false, looksAhead: false },
  { caches: true, looksAhead: false },
  { caches: true, looksAhead: true },
];

function nameOf({ caches, looksAhead }: typeof KINDS[number]): string {
  return `${caches ? "with" : "without"} prefix caching${looksAhead ? " and look-ahead" : ""}`;
}

/** Its tokens are its own; all of them unless it was cut short. */
function checkTokens(harness: Harness, key: number): void {
  const { prompt, sampling, sequences, numTerminals } = harness.transcripts.get(key)!;
  assertEquals(numTerminals, 1);
  sequences.forEach(({ tokenIds, finishReason }, index) => {
    const expected = expectedOutput(prompt, sampling, index);
    assertEquals(tokenIds, finishReason === "abort" ? expected.slice(0, tokenIds.length) : expected);
  });
}

/** Requests that fill a small pool: one long prompt in chunks, decodes, some waiting, some preempted. */
function crowd(harness: Harness): number[] {
  return [3, 25, 9, 9, 5, 14].map((length, i) => harness.submit(tokens(length, i), LONG));
}

for (const kind of KINDS) {
  // After sglang#36475 and vllm#10087: an abort that races with the step leaks pages or kills the scheduler.
  Deno.test(`StepLoop.abort() at every step and in every state harms nobody ${nameOf(kind)}`, () => {
    const config = { ...ROOMY, numPages: 14 };
    const steps = new Harness(config, kind);
    crowd(steps);
    steps.finish();
    assertGreater(steps.counters.get("preemptionsTotal"), 0);
    for (let step = 0; step <= steps.runner.numSteps; step++) {
      for (let victim = 0; victim < 6; victim++) {
        const harness = new Harness(config, kind);
        const keys = crowd(harness);
        for (let i = 0; i < step; i++) harness.step();
        const hadEnded = harness.transcripts.get(keys[victim]!)!.numTerminals === 1;
        harness.abort(keys[victim]!);
        harness.abort(keys[victim]!);
        // A client's next turn comes at once.
        keys.push(harness.submit(tokens(9, 2), LONG));
        harness.finish();
        for (const key of keys) checkTokens(harness, key);
        assertEquals(harness.counters.finishedTotal().abort, hadEnded ? 0 : 1);
      }
    }
  });

  // After vllm#27194: an error of one step, and requests that never hear of it.
  for (const where of ["submit", "finish"] as const) {
    Deno.test(`StepLoop ends every request once when the runner's ${where}() fails at any step ${nameOf(kind)}`, () => {
      for (let failing = 0; failing < 12; failing++) {
        const harness = new Harness({ ...ROOMY, numPages: 14 }, kind);
        const keys = crowd(harness);
        const { runner } = harness;
        const original = runner[where].bind(runner);
        let calls = 0;
        runner[where] = (buffer) => {
          if (calls++ === failing) throw new Error("device lost");
          original(buffer);
        };
        assertThrows(() => harness.finish(), Error, "device lost");
        harness.loop.fail("The engine failed: device lost");
        harness.collect();
        for (const key of keys) {
          const { usage, error, numTerminals } = harness.transcripts.get(key)!;
          assertEquals([numTerminals, error ?? usage?.completionTokens], [1, usage === null ? error : 12]);
          if (usage === null) assertEquals(error, "The engine failed: device lost");
        }
        assertEquals(harness.counters.get("numRequestsRunning"), 0);
      }
    });
  }

  // After vllm#50702 and local-inference-lab/vllm#480: wrong tokens once the pool is at 100 %.
  Deno.test(`StepLoop gives the same tokens with every page owned ${nameOf(kind)}`, () => {
    // Each of four sequences ends with 5 pages: together they are all of the pool, when they have grown.
    const harness = new Harness({ ...ROOMY, maxNumBatchedTokens: 32, numPages: 20 }, kind);
    const keys = [9, 9, 9, 9].map((length, i) => harness.submit(tokens(length, i), LONG));
    let mostOwned = 0;
    while (!harness.loop.isIdle) {
      harness.step();
      mostOwned = Math.max(mostOwned, harness.counters.get("numPagesOwned"));
    }
    assertEquals(mostOwned, 20);
    for (const key of keys) checkTokens(harness, key);
    // Warm, with a pool full of others' pages.
    const again = [9, 9].map((length, i) => harness.submit(tokens(length, i), LONG));
    harness.finish();
    for (const key of again) checkTokens(harness, key);
  });

  for (const state of ["prefill", "decode"] as const) {
    Deno.test(`StepLoop gives a sequence its own tokens when it is preempted in ${state} ${nameOf(kind)}`, () => {
      // The first takes the last page while the second has computed a part of its prompt, or of its output.
      const length = state === "prefill" ? 34 : 15;
      const harness = new Harness({ maxNumSeqs: 2, maxNumBatchedTokens: 4, pageSize: 4, numPages: 13 }, kind);
      const first = harness.submit(tokens(6), { ...LONG, maxTokens: state === "prefill" ? 20 : 36 });
      const second = harness.submit(tokens(length, 9), { ...LONG, maxTokens: state === "prefill" ? 12 : 30 });
      let numTokensThen = -1;
      while (!harness.loop.isIdle) {
        const before = harness.tokens(second)[0]!.length;
        harness.step();
        if (numTokensThen < 0 && harness.counters.get("preemptionsTotal") > 0) numTokensThen = before;
      }
      assert(state === "prefill" ? numTokensThen === 0 : numTokensThen > 0, `preempted after ${numTokensThen} tokens`);
      for (const key of [first, second]) checkTokens(harness, key);
    });
  }
}

for (const looksAhead of [false, true]) {
  const name = looksAhead ? " with look-ahead" : "";

  // Hits are found when a sequence is admitted, not when it is queued: what went meanwhile is computed again.
  Deno.test(`StepLoop computes a prefix again that was evicted while its request waited${name}`, () => {
    const harness = new Harness({ ...ROOMY, maxNumSeqs: 1, numPages: 12 }, { looksAhead });
    const prompt = tokens(21);
    harness.submit(prompt, LONG);
    harness.finish();
    const other = harness.submit(tokens(37, 11), LONG);
    const waits = harness.submit(prompt, LONG);
    harness.finish();
    assertEquals(harness.transcripts.get(waits)!.usage!.cachedTokens, 0);
    for (const key of [other, waits]) checkTokens(harness, key);
  });

  Deno.test(`StepLoop never gives away the pages that a newcomer has just found${name}`, () => {
    // All pages are idle and named, the newcomer's own prefix the oldest: its new pages must come from the others.
    for (let numPages = 8; numPages <= 16; numPages++) {
      const harness = new Harness({ ...ROOMY, numPages }, { looksAhead });
      const prompt = tokens(13);
      harness.submit(prompt, greedy({ maxTokens: 1 }));
      harness.finish();
      for (let i = 0; harness.loop.numFreePages > 0 && i < numPages; i++) {
        harness.submit(tokens(5, 5 + i), greedy({ maxTokens: 1 }));
        if (i % 2 === 0) harness.step();
      }
      const warm = harness.submit(prompt, LONG);
      harness.finish();
      for (const key of harness.transcripts.keys()) checkTokens(harness, key);
      assertEquals(harness.transcripts.get(warm)!.usage!.cachedTokens % 4, 0);
    }
  });

  // After vllm PR#45357: pages freed under a step in flight and given to another.
  Deno.test(`StepLoop gives no page of a step under way to anybody else${name}`, () => {
    for (let step = 1; step < 12; step++) {
      const harness = new Harness({ ...ROOMY, numPages: 9 }, { looksAhead });
      const first = harness.submit(tokens(9), LONG);
      const second = harness.submit(tokens(10, 3), LONG);
      for (let i = 0; i < step; i++) harness.step();
      harness.abort(first);
      // As many pages as there are: they must come from the aborted, as soon as they may.
      const third = harness.submit(tokens(20, 8), LONG);
      harness.finish();
      for (const key of [first, second, third]) checkTokens(harness, key);
    }
  });
}
