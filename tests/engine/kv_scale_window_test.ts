/**
 * Scales calculated from the first tokens of real requests: what made vLLM remove the feature must not come back. Caches
 * that are corrupt after the change, or scales never applied (vllm#37554, #37565, #27232), scales from warm-up (#21640),
 * prefixes stored with other scales. Graphs (#25513) stand in tests/gpu/test_model.py, the library's part in
 * tests/native/kv_scales_test.ts, and `step_loop_model_test.ts` runs random requests through a window.
 */

import { assertEquals, assertGreater, assertNotEquals } from "@std/assert";
import { KvScaleWindow } from "../../engine/kv_scale_window.ts";
import { BOS, expectedOutput, greedy } from "./_fake_model.ts";
import { FakeScales } from "./_fake_scales.ts";
import { Harness } from "./_harness.ts";

const ROOMY = { maxNumSeqs: 8, maxNumBatchedTokens: 16, pageSize: 4, numPages: 64 };
const PROMPT = [BOS, 5, 9, 3, 12, 8, 2, 2, 7];
const LONG = greedy({ maxTokens: 12, ignoreEos: true });

function makeHarness(
  numTokens: number,
  last: readonly [number, number],
  options: { looksAhead?: boolean; caches?: boolean } = {},
) {
  let source: FakeScales | undefined;
  const harness = new Harness(ROOMY, {
    ...options,
    kvScaleWindow: (runner) => {
      const own = source = new FakeScales(runner, last);
      return new KvScaleWindow(own, numTokens, (scales, counted) => {
        own.ends.push({ scales: [...scales], numTokens: counted });
      });
    },
  });
  return { harness, source: source! };
}

for (const looksAhead of [false, true]) {
  for (const caches of [false, true]) {
    const how = `${looksAhead ? "with" : "without"} look-ahead, ${caches ? "with" : "without"} prefix caching`;
    Deno.test(`StepLoop computes what runs again when the scales change, ${how}`, () => {
      const { harness, source } = makeHarness(30, [0.5, 2], { looksAhead, caches });
      const sampling = [LONG, { ...LONG, n: 3, temperature: 1 }, { ...LONG, maxTokens: 30 }];
      const keys = sampling.map((one) => harness.submit(PROMPT, one));
      harness.finish();
      assertEquals(source.ends.map(({ scales }) => scales), [[0.5, 2]]);
      assertGreater(source.ends[0]!.numTokens, 29);
      assertGreater(harness.runner.numSteps, source.numSteps, "the window ends while requests run");
      keys.forEach((key, i) => {
        const expected = Array.from({ length: sampling[i]!.n }, (_, n) => expectedOutput(PROMPT, sampling[i]!, n));
        assertEquals(harness.tokens(key), expected);
      });
      assertGreater(harness.counters.get("preemptionsTotal"), 0);
      // What was named before is not found; what was stored since is.
      const again = harness.submit(PROMPT, LONG);
      harness.finish();
      assertEquals(harness.tokens(again)[0], expectedOutput(PROMPT, LONG));
      assertEquals(harness.transcripts.get(again)!.usage!.cachedTokens, caches ? 8 : 0);
    });
  }
}

Deno.test("StepLoop forgets prefixes stored before the scales changed", () => {
  const { harness, source } = makeHarness(14, [0.5, 2]);
  const cachedTokens = () => {
    const key = harness.submit(PROMPT, { ...LONG, maxTokens: 3 });
    harness.finish();
    return harness.transcripts.get(key)!.usage!.cachedTokens;
  };
  // The first computes 11 tokens, the second finds 8 of its own and ends the window with the third of its,
  // the third finds none.
  assertEquals([cachedTokens(), source.ends.length], [0, 0]);
  assertEquals([cachedTokens(), source.ends.length], [8, 1]);
  assertEquals([cachedTokens(), cachedTokens()], [0, 8]);
});

Deno.test("StepLoop lets sequences run on when the scales stay as they were", () => {
  const { harness, source } = makeHarness(12, [1, 1]);
  const key = harness.submit(PROMPT, LONG);
  harness.finish();
  assertEquals([source.ends.length, harness.counters.get("preemptionsTotal")], [1, 0]);
  assertEquals(harness.tokens(key)[0], expectedOutput(PROMPT, LONG));
  const again = harness.submit(PROMPT, LONG);
  harness.finish();
  // Pages filled before have no name under the new fingerprint, as nobody has asked for them since.
  assertEquals(harness.tokens(again)[0], expectedOutput(PROMPT, LONG));
});

Deno.test("StepLoop sets the scales when the last request of the window ends, without waiting for another", () => {
  const { harness, source } = makeHarness(9, [0.5, 2]);
  harness.submit(PROMPT, { ...LONG, maxTokens: 1 });
  harness.finish();
  assertEquals(source.ends, [{ scales: [0.5, 2], numTokens: 9 }]);
});

Deno.test("StepLoop sets no scales before any request has run", () => {
  const { harness, source } = makeHarness(1, [0.5, 2]);
  harness.step();
  harness.step();
  assertEquals(source.ends.length, 0);
});

Deno.test("KvScaleWindow.end() puts the scales in the fingerprint", () => {
  const ended = ([1, 2] as const).map((scale) => {
    const { harness: { runner } } = makeHarness(1, [scale, 2]);
    const window = new KvScaleWindow(new FakeScales(runner, [scale, 2]), 1, () => {});
    return window.end();
  });
  assertNotEquals(ended[0]!.fingerprint, ended[1]!.fingerprint);
  assertEquals(ended.map(({ isChanged }) => isChanged), [true, true]);
});
