import { assertEquals, assertNotEquals } from "@std/assert";
import { PrefixHasher } from "../../engine/prefix_hash.ts";
import { expectedOutput, greedy } from "./_fake_model.ts";
import { Harness } from "./_harness.ts";

const ROOMY = { maxNumSeqs: 8, maxNumBatchedTokens: 16, pageSize: 4, numPages: 64 };
const LONG = greedy({ maxTokens: 12, ignoreEos: true });
const tokens = (length: number) => Array.from({ length }, (_, i) => 2 + (i * 7) % 30);

function cached(harness: Harness, prompt: number[], cacheSalt = ""): number {
  const key = harness.submit(prompt, LONG, { cacheSalt });
  harness.finish();
  assertEquals(harness.tokens(key)[0], expectedOutput(prompt, LONG));
  return harness.transcripts.get(key)!.usage!.cachedTokens;
}

// After tenstorrent/vllm#415 and omlx#2255: a warm prefix that gave other tokens than a cold one.
Deno.test("StepLoop gives the same tokens cold and warm, for every length around a page's edge", () => {
  const harness = new Harness(ROOMY);
  assertEquals(cached(harness, tokens(17)), 0);
  for (let length = 1; length <= 17; length++) {
    // One token at least is computed, for its logits.
    assertEquals(cached(harness, tokens(length)), Math.floor((length - 1) / 4) * 4);
  }
});

Deno.test("StepLoop finds a request's output when it becomes part of a prompt", () => {
  const harness = new Harness(ROOMY);
  const prompt = tokens(5);
  cached(harness, prompt);
  // 5 + 12 tokens, of which the last was never computed.
  assertEquals(cached(harness, [...prompt, ...expectedOutput(prompt, LONG), 3]), 16);
});

Deno.test("StepLoop shares pages between requests that run together", () => {
  const harness = new Harness(ROOMY);
  harness.submit(tokens(12), LONG);
  harness.step();
  const second = harness.submit(tokens(13), LONG);
  harness.step();
  assertEquals(harness.runner.queryLens, [1, 1]);
  // 5 pages that the first takes for 13 tokens and one, less the 3 that both have.
  assertEquals(harness.counters.get("numPagesOwned"), 4 + 1);
  harness.finish();
  assertEquals(harness.tokens(second)[0], expectedOutput(tokens(13), LONG));
});

// After CVE-2025-46570: whether a prefix is cached tells others what was asked.
Deno.test("StepLoop shares no page between cache salts", () => {
  const harness = new Harness(ROOMY);
  assertEquals(cached(harness, tokens(9), "a"), 0);
  assertEquals([cached(harness, tokens(9)), cached(harness, tokens(9), "b"), cached(harness, tokens(9), "a")], [
    0,
    0,
    8,
  ]);
});

Deno.test("StepLoop caches nothing when prefix caching is off", () => {
  const harness = new Harness(ROOMY, { caches: false });
  assertEquals([cached(harness, tokens(9)), cached(harness, tokens(9))], [0, 0]);
});

// After vllm#50702: a pool at 100 % gave out pages that were still to be read.
Deno.test("StepLoop evicts the ends of prefixes first when the pool is full", () => {
  const harness = new Harness({ ...ROOMY, numPages: 8 });
  cached(harness, tokens(17));
  // 7 pages idle; this takes 6 of 8, so 5 of them go, the last first.
  cached(harness, [9, ...tokens(9)]);
  assertEquals(cached(harness, tokens(17)), 8);
});

Deno.test("StepLoop runs requests of a lower priority number first", () => {
  const harness = new Harness({ ...ROOMY, maxNumSeqs: 1 });
  const order: number[] = [];
  const keys = [0, 5, -1, 0].map((priority) => harness.submit(tokens(3), { ...LONG, maxTokens: 1 }, { priority }));
  while (!harness.loop.isIdle) {
    harness.step();
    order.push(...keys.filter((key) => harness.transcripts.get(key)!.usage !== null && !order.includes(key)));
  }
  assertEquals(order, [2, 0, 3, 1]);
});

Deno.test("PrefixHasher names differ by token, place, salt, fingerprint and process", () => {
  const key = Uint32Array.of(1, 2, 3, 4);
  const name = (fingerprint: string, salt: string, pages: number[][], keyed = key) => {
    const hasher = new PrefixHasher(fingerprint, keyed);
    return pages.reduce((before, page) => hasher.next(before, Int32Array.from(page)), hasher.root(salt));
  };
  const same = name("f", "", [[1, 2, 3, 4], [5, 6, 7, 8]]);
  assertEquals(name("f", "", [[1, 2, 3, 4], [5, 6, 7, 8]]), same);
  const others = [
    name("g", "", [[1, 2, 3, 4], [5, 6, 7, 8]]),
    name("f", "s", [[1, 2, 3, 4], [5, 6, 7, 8]]),
    name("f", "", [[5, 6, 7, 8], [1, 2, 3, 4]]),
    name("f", "", [[1, 2, 3, 4], [5, 6, 8, 7]]),
    name("f", "", [[2, 2, 3, 4], [5, 6, 7, 8]]),
    name("f", "", [[5, 6, 7, 8]]),
    name("f", "", [[1, 2, 3, 4], [5, 6, 7, 8]], Uint32Array.of(1, 2, 3, 5)),
  ];
  for (const other of others) assertNotEquals(other, same);
  const many = new Set<string>();
  for (let a = 0; a < 200; a++) for (let b = 0; b < 200; b++) many.add(name("f", "", [[a, b, 0, 0]]));
  assertEquals(many.size, 40_000);
});
