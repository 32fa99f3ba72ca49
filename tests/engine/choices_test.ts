import { assert, assertEquals } from "@std/assert";
import { ChoicePlace } from "../../engine/choice_tree.ts";
import { EOS, greedy } from "./_fake_model.ts";
import { Harness } from "./_harness.ts";

const CONFIG = { maxNumSeqs: 8, maxNumBatchedTokens: 16, pageSize: 4, numPages: 64 };
const CHOICES = [[5, 6, 7], [5, 6, 7, 8], [20], [30, 11, 12, 13, 14, 15]];

const tokensOf = (mask: Uint32Array) =>
  [...Array(32 * mask.length).keys()].filter((id) => mask[id >>> 5]! >>> (id & 31) & 1);

Deno.test("ChoicePlace.mask() lets the tokens that go on with a text, and where one is complete the ends", () => {
  const root = ChoicePlace.root(CHOICES, new Set([1, 39]));
  assertEquals(tokensOf(root.mask(2)), [5, 20, 30]);
  const seven = root.after(5)!.after(6)!.after(7)!;
  assertEquals(tokensOf(seven.mask(2)), [1, 8, 39]);
  assertEquals(tokensOf(seven.after(8)!.mask(2)), [1, 39]);
  assertEquals([seven.after(1), root.after(4)], [null, null]);
  // One mask a place, so that devices are sent it once.
  assertEquals(root.mask(2) === root.mask(2), true);
});

for (const looksAhead of [false, true]) {
  const name = looksAhead ? " with look-ahead" : "";
  Deno.test(`StepLoop keeps every output to one of its choices${name}`, () => {
    const costs = { tokenCost: 0.001, waitCost: 0, fewTokens: Infinity, manyCost: 0 };
    const speculation = { numSpeculativeTokens: 4, promptLookupMin: 1, ...costs };
    const harness = new Harness({ ...CONFIG, maxSamples: 20 }, { looksAhead, speculation });
    const free = harness.submit([5, 6, 7], greedy({ maxTokens: 30, ignoreEos: true }));
    const keys = Array.from({ length: 12 }, (_, seed) => {
      const sampling = greedy({ n: 2, maxTokens: 30, temperature: 1, seed, choices: CHOICES });
      return harness.submit([5, 6, 7, 5, 6], sampling);
    });
    harness.finish();
    const outputs = keys.flatMap((key) => harness.tokens(key));
    const expected = new Set(CHOICES.map((choice) => [...choice, EOS].join()));
    for (const output of outputs) assert(expected.has(output.join()), output.join());
    assert(new Set(outputs.map((output) => output.join())).size >= 3, "seeds decide which");
    for (const key of keys) {
      assertEquals(harness.transcripts.get(key)!.sequences.map(({ finishReason }) => finishReason), ["stop", "stop"]);
    }
    assertEquals(harness.tokens(free)[0]!.length, 30);
  });
}

Deno.test("StepLoop cuts a choice at max_tokens, and ends it at a stop token where the model's own do not count", () => {
  const harness = new Harness(CONFIG);
  const cut = harness.submit([3], greedy({ maxTokens: 2, choices: [[10, 11, 12]] }));
  const stopped = harness.submit([3], greedy({ choices: [[10, 11]], ignoreEos: true, stopTokenIds: [38] }));
  harness.finish();
  assertEquals([harness.tokens(cut), harness.transcripts.get(cut)!.sequences[0]!.finishReason], [[[10, 11]], "length"]);
  assertEquals(harness.tokens(stopped), [[10, 11, 38]]);
});
