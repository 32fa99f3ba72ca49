import { assertEquals } from "@std/assert";
import { LogitEdits } from "../../engine/logit_edits.ts";
import { FakeRunner, greedy } from "./_fake_model.ts";

const { buffers: [buffer] } = new FakeRunner({ maxNumSeqs: 1, maxNumBatchedTokens: 1, pageSize: 4, numPages: 1 });

// The 17th, 33rd, ... entry was once written to the columns that it had outgrown.
Deno.test("LogitEdits keeps every entry of long lists", () => {
  const ids = Array.from({ length: 70 }, (_, i) => i);
  const prompt = Int32Array.from(ids);
  const seen = new LogitEdits(greedy({ repetitionPenalty: 1.5 }), prompt, new Set());
  seen.write(buffer, 0);
  assertEquals([...buffer.editFlags.subarray(0, seen.length)], ids.map(() => 1));
  const biased = new LogitEdits(greedy({ logitBias: new Map(ids.map((id) => [id, id + 1])) }), prompt, new Set());
  biased.write(buffer, 0);
  assertEquals([...buffer.editBias.subarray(0, biased.length)], ids.map((id) => id + 1));
  const banned = new LogitEdits(greedy({ minTokens: 1 }), prompt, new Set(ids));
  banned.write(buffer, 0);
  assertEquals([...buffer.editFlags.subarray(0, banned.length)], ids.map(() => 2));
});

Deno.test("LogitEdits.dependsOnOutput is true where the tokens sampled count, not how many there are", () => {
  const depends = (options: Parameters<typeof greedy>[0]) =>
    LogitEdits.for(greedy(options), Int32Array.of(1), new Set([0]))?.dependsOnOutput ?? false;
  for (const options of [{ logitBias: { 3: 1 } }, { minTokens: 1 }, { badWords: [[4]] }]) {
    assertEquals(depends(options), false);
  }
  for (const options of [{ badWords: [[4, 5]] }, { presencePenalty: 1 }, { repetitionPenalty: 2 }]) {
    assertEquals(depends(options), true);
  }
});
