import { assertEquals } from "@std/assert";
import { Deadlines } from "../../engine/deadlines.ts";
import { expectedOutput, greedy } from "./_fake_model.ts";
import { Harness } from "./_harness.ts";

const ROOMY = { maxNumSeqs: 2, maxNumBatchedTokens: 8, pageSize: 4, numPages: 64 };
const LONG = greedy({ maxTokens: 12, ignoreEos: true });
const PROMPT = Array.from({ length: 20 }, (_, i) => i + 2);

Deno.test("Deadlines.takeOverdue() gives each item once, when it is due", () => {
  const deadlines = new Deadlines<string>();
  deadlines.set("c", 30);
  deadlines.set("a", 10);
  deadlines.set("never", null);
  deadlines.set("b", 10);
  deadlines.set("gone", 10);
  deadlines.delete("gone");
  assertEquals(deadlines.takeOverdue(9.9), []);
  assertEquals(deadlines.takeOverdue(10), ["a", "b"]);
  deadlines.set("d", 11);
  assertEquals([12, 20, 30, 1e12].map((now) => [...deadlines.takeOverdue(now)]), [["d"], [], ["c"], []]);
});

for (const looksAhead of [false, true]) {
  for (const [state, steps] of [["waiting", 0], ["prefilling", 1], ["decoding", 5]] as const) {
    const name = `${state} request once, with what it has${looksAhead ? ", with look-ahead" : ""}`;
    Deno.test(`StepLoop ends an overdue ${name}`, () => {
      const harness = new Harness(ROOMY, { looksAhead });
      const key = harness.submit(PROMPT, { ...LONG, n: 2 }, { deadlineMs: 100 });
      for (let i = 0; i < steps; i++) harness.step();
      harness.nowMs = 100;
      harness.step();
      const { sequences, usage, numTerminals } = harness.transcripts.get(key)!;
      assertEquals(numTerminals, 1);
      for (const { tokenIds, finishReason, stopReason } of sequences) {
        assertEquals([finishReason, stopReason], ["length", "deadline"]);
        assertEquals(tokenIds, expectedOutput(PROMPT, LONG).slice(0, tokenIds.length));
        assertEquals(tokenIds.length > 0, state === "decoding");
      }
      assertEquals(usage!.completionTokens, sequences[0]!.tokenIds.length + sequences[1]!.tokenIds.length);
      assertEquals(harness.counters.finishedTotal(), { stop: 0, length: 0, abort: 0, deadline: 1, error: 0 });
      harness.finish();
    });
  }
}

Deno.test("StepLoop lets a request that ends in time and those without a deadline be", () => {
  const harness = new Harness(ROOMY);
  const inTime = harness.submit([5, 6], LONG, { deadlineMs: 100 });
  harness.finish();
  const late = harness.submit([7, 8], LONG, { deadlineMs: 200 });
  const never = harness.submit([7, 8, 9], LONG);
  harness.step();
  harness.nowMs = 1000;
  harness.finish();
  assertEquals(harness.tokens(inTime)[0], expectedOutput([5, 6], LONG));
  assertEquals(harness.tokens(late)[0]!.length, 1);
  assertEquals(harness.tokens(never)[0], expectedOutput([7, 8, 9], LONG));
  assertEquals(harness.counters.finishedTotal(), { stop: 0, length: 2, abort: 0, deadline: 1, error: 0 });
});
