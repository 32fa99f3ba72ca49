import { assertEquals } from "@std/assert";
import fc from "fast-check";
import type { Outcome } from "../../engine/messages.ts";
import { packOutcomes, unpackOutcomes } from "../../engine/token_columns.ts";

const delta = fc.record({
  index: fc.nat(3),
  text: fc.string({ unit: "binary" }),
  tokenIds: fc.array(fc.nat(2 ** 31 - 1), { maxLength: 3 }),
  logprobs: fc.constantFrom(null, null, null, []),
  finishReason: fc.constantFrom(null, null, null, "stop" as const),
  stopReason: fc.constant(null),
});

const outcomes = fc.array(fc.record({
  deltas: fc.array(delta, { minLength: 1, maxLength: 3 }),
  usage: fc.constantFrom(null, null, null, { promptTokens: 1, completionTokens: 2, cachedTokens: 0 }),
  error: fc.constantFrom(null, null, null, "gone"),
  promptScores: fc.constant(null),
})).map((list) => list.map((outcome, i): Outcome => ({ ...outcome, key: 2 ** 40 + i })));

Deno.test("unpackOutcomes() gives back what packOutcomes() took, across threads, and only what is plain", () => {
  let numPlain = 0;
  fc.assert(fc.property(outcomes, (list) => {
    const { columns, others } = structuredClone(packOutcomes(list));
    const found: Outcome[] = [];
    unpackOutcomes(columns, (outcome) => found.push(outcome));
    numPlain += found.length;
    const byKey = (a: Outcome, b: Outcome) => a.key - b.key;
    assertEquals([...found, ...others].sort(byKey), list);
    for (const { usage, error, deltas } of found) {
      assertEquals([usage, error, deltas.some((one) => one.finishReason ?? one.logprobs)], [null, null, false]);
    }
  }));
  assertEquals(numPlain > 50, true);
});

Deno.test("packOutcomes() takes a step's plain tokens and leaves ends, errors and log-probabilities", () => {
  const plain = { index: 0, text: "a", tokenIds: [5], logprobs: null, finishReason: null, stopReason: null };
  const base = { promptScores: null, usage: null, error: null, deltas: [plain] };
  const list: Outcome[] = [
    { ...base, key: 1 },
    { ...base, key: 2, deltas: [{ ...plain, finishReason: "length" }] },
    { ...base, key: 3, deltas: [plain, { ...plain, logprobs: [] }] },
    { ...base, key: 4, error: "gone" },
    { ...base, key: 5, usage: { promptTokens: 1, completionTokens: 1, cachedTokens: 0 }, deltas: [] },
    { ...base, key: 6, deltas: [plain, { ...plain, index: 1, tokenIds: [6, 7], text: "bc" }] },
  ];
  const { columns, others } = packOutcomes(list);
  assertEquals(others.map(({ key }) => key), [2, 3, 4, 5]);
  assertEquals(columns, {
    keys: Float64Array.of(1, 6, 6),
    shape: Int32Array.of(0, 1, 1, 0, 1, 1, 1, 2, 2),
    tokenIds: Int32Array.of(5, 5, 6, 7),
    text: "aabc",
  });
});
