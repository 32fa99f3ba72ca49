import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { KvComparison, type KvVariant } from "../../engine/kv_comparison.ts";
import { type KvRetrievalOptions, measureKvRetrieval, plantKeys } from "../../engine/kv_retrieval.ts";
import { loadModel } from "../../engine/load_model.ts";
import { openLibrary } from "../../ffi/library.ts";
import { openModel } from "../../models/open_model.ts";
import { dataPath } from "../models/_fixtures.ts";
import { openEngine, runStep } from "../native/_random_model.ts";

const CONTEXT = 384;
const model = await openModel(dataPath("tiny/base"));
const { tokenizer } = model;
const haystack = tokenizer.encode("All that grows in a garden needs water and light. ".repeat(40), {
  addSpecialTokens: false,
});
const options: KvRetrievalOptions = { tokenizer, haystack, contextLength: CONTEXT };
const VARIANTS: readonly KvVariant[] = (["float32", "int4"] as const).map((dtype) => {
  return { name: dtype, dtype, scales: null, kMean: null };
});

Deno.test("plantKeys() plants keys at even depths of a text that fills the context with the longest question", () => {
  const { text, keys } = plantKeys(options);
  const longest = Math.max(...keys.map(({ question, answer }) => question.length + answer.length));
  assertEquals(text.length + longest, CONTEXT);
  assertEquals(keys.map(({ depth }) => depth), [1 / 6, 3 / 6, 5 / 6]);
  const [first] = tokenizer.encode("");
  assertEquals(text[0], first === tokenizer.bosTokenId ? first : haystack[0]);
  const whole = tokenizer.decode(text);
  let from = 0;
  for (const { depth, question, answer } of keys) {
    const asked = tokenizer.decode(question) + tokenizer.decode(answer);
    assert(/^\n\nThe secret number of [A-Z]\w+ is \d{5}$/.test(asked), asked);
    const at = whole.indexOf(`${asked}.\n\n`, from);
    // In tokens of the haystack, which planted keys are not.
    const planted = whole.slice(0, at).match(/\n\nThe secret.*?\.\n\n/g)?.join("").length ?? 0;
    const hay = whole.length - 3 * (asked.length + 3);
    assertAlmostEquals((at - planted) / hay, depth, 0.03);
    from = at + 1;
  }
});

Deno.test("plantKeys() refuses contexts that are too short or longer than the text", () => {
  assertThrows(() => plantKeys({ ...options, contextLength: 127 }), RangeError, "keys in 127 tokens: expected 128");
  assertThrows(() => plantKeys({ ...options, contextLength: haystack.length + 1 }), RangeError, `${haystack.length}`);
});

Deno.test("measureKvRetrieval() asks every key of every cache, as single runs of each would answer", async () => {
  using library = await openLibrary("cpu");
  const settings = { maxModelLen: CONTEXT, layerKvDtypes: [], numThreads: 2, quantization: "none" } as const;
  using native = loadModel(library, model, settings, () => {});
  using comparison = new KvComparison(native, { variants: VARIANTS, maxTokens: CONTEXT, numThreads: 2 });
  const found = measureKvRetrieval(comparison, options);
  assertEquals(found.map(({ name }) => name), ["float32", "int4"]);
  const { text, keys } = plantKeys(options);
  const pages = Array.from({ length: CONTEXT / 16 }, (_, page) => page);
  VARIANTS.forEach(({ dtype }, variant) => {
    keys.forEach(({ depth, question, answer }, i) => {
      using engine = openEngine(native, { kvDtype: dtype, maxNumBatchedTokens: CONTEXT, maxPagesPerSeq: 24 });
      let logprob = 0;
      let isFound = true;
      answer.forEach((token, at) => {
        const tokens = [...text, ...question, ...answer.slice(0, at)];
        const [logits] = runStep(engine, [{ tokens, pages }]);
        const max = Math.max(...logits!);
        logprob += logits![token]! - max - Math.log(logits!.reduce((sum, x) => sum + Math.exp(x - max), 0));
        isFound &&= logits!.indexOf(max) === token;
      });
      const key = found[variant]!.keys[i]!;
      assertEquals([key.depth, key.found], [depth, isFound]);
      assertAlmostEquals(key.logprob, logprob, 1e-3);
    });
  });
});
