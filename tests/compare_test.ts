import { assert, assertAlmostEquals, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { compare, parseCompare } from "../compare.ts";
import { KvComparison } from "../engine/kv_comparison.ts";
import { kvVariant } from "../engine/kv_variants.ts";
import { loadModel } from "../engine/load_model.ts";
import { type ComparedToken, summarize, TokenComparison } from "../engine/token_comparison.ts";
import { openLibrary } from "../ffi/library.ts";
import { openModel } from "../models/open_model.ts";
import { OptionError } from "../options.ts";
import { dataPath } from "./models/_fixtures.ts";
import { openEngine, runStep } from "./native/_random_model.ts";

const TINY = dataPath("tiny/base");
const model = await openModel(TINY);
const silent = { log: () => {}, onProgress: () => {} };

Deno.test("TokenComparison goes through the prompt and on as the reference decodes, in turns", async () => {
  const prompt = Array.from({ length: 300 }, (_, i) => (7 * i * i + 3) % 320);
  using library = await openLibrary("cpu");
  const settings = { maxModelLen: 310, layerKvDtypes: [], numThreads: 2, quantization: "none" } as const;
  using native = loadModel(library, model, settings, () => {});
  const variants = [kvVariant(model, "float32"), kvVariant(model, "int4")];
  using comparison = new KvComparison(native, { variants, maxTokens: 310, numThreads: 2 });
  const run = (promptTokenIds: readonly number[], maxTokens: number, eosTokenIds: readonly number[] = []) => {
    const work = new TokenComparison(comparison, { promptTokenIds, maxTokens, eosTokenIds });
    let turns = 0;
    for (; !work.isDone; turns++) work.step();
    return { tokens: work.tokens, turns };
  };
  const { tokens, turns } = run(prompt, 10);
  // The prompt in parts of 64 tokens, of which the last one gives the first of ten.
  assertEquals([tokens.length, turns], [309, 5 + 9]);
  assertEquals(tokens.slice(0, 299).map(({ tokenId, isPrompt }) => isPrompt ? tokenId : -1), prompt.slice(1));
  const text = [...prompt, ...tokens.slice(299).map(({ tokenId }) => tokenId)];
  const pages = Array.from({ length: 20 }, (_, page) => page);
  for (const [index, dtype] of (["float32", "int4"] as const).entries()) {
    using engine = openEngine(native, { kvDtype: dtype, maxPagesPerSeq: 20 });
    text.slice(0, -1).forEach((token, cached) => {
      const [logits] = runStep(engine, [{ tokens: [token], cached, pages }]);
      const max = Math.max(...logits!);
      const next = tokens[cached]!;
      const logprob = logits![next.tokenId]! - max - Math.log(logits!.reduce((sum, x) => sum + Math.exp(x - max), 0));
      assertAlmostEquals(index === 0 ? next.referenceLogprob : next.logprob, logprob, 1e-4);
      assertEquals(index === 0 ? next.referenceTop : next.top, logits!.indexOf(max));
      if (!next.isPrompt && index === 0) assertEquals(next.tokenId, next.referenceTop);
    });
  }
  // An end-of-sequence token is the last; without output only the prompt is compared; one token has nothing before it.
  const third = tokens[301]!.tokenId;
  const place = tokens.slice(299).findIndex(({ tokenId }) => tokenId === third);
  assertEquals(run(prompt, 10, [third]).tokens, tokens.slice(0, 299 + place + 1));
  assertEquals(run(prompt, 0).tokens, tokens.slice(0, 299));
  assertEquals(run(prompt.slice(0, 1), 0).tokens, []);
  assertThrows(() => run([], 1), RangeError, "no tokens");
});

Deno.test("summarize() gives means and the first token of the output that the other would not have chosen", () => {
  const token = (kl: number, isPrompt: boolean, top: number): ComparedToken => {
    return { tokenId: 5, isPrompt, kl, top, referenceTop: isPrompt ? 6 : 5, logprob: -1, referenceLogprob: -2 };
  };
  assertEquals(summarize([token(1, true, 7), token(2, true, 6), token(6, false, 5), token(3, false, 4)]), {
    klMean: 3,
    klMax: 6,
    top1Agreement: 0.5,
    firstDivergence: 1,
  });
  assertEquals(summarize([]), { klMean: 0, klMax: 0, top1Agreement: 1, firstDivergence: null });
});

Deno.test("compare() prints a line a token and what it comes to", async () => {
  let output = "";
  const args = [TINY, "--prompt", "one two three", "--kv-cache-dtype", "int4", "--max-tokens", "5", "--device", "cpu"];
  await compare(parseCompare(args), { ...silent, log: (text) => output = text });
  const [head, ...lines] = output.split("\n");
  assertMatch(head!, /^ +token +float32 +int4 +KL +most likely under int4$/);
  const numPrompt = model.tokenizer.encode("one two three").length;
  assertEquals(lines.filter((line) => line.startsWith("prompt  ")).length, numPrompt - 1);
  const outputs = lines.filter((line) => line.startsWith("output  "));
  assert(outputs.length >= 1 && outputs.length <= 5);
  for (const line of outputs) assertMatch(line, /^output +".*" +\d+\.\d\d % +\d+\.\d\d % +[\d.e-]+/);
  assertMatch(lines.at(-1)!, /^mean KL [\d.e-]+, largest [\d.e-]+, same most likely token [\d.]+ %; int4 would have /);
});

Deno.test("compare() and parseCompare() say what they cannot do", async () => {
  const command = (...args: string[]) => parseCompare([TINY, "--prompt", "x", "--device", "cpu", ...args]);
  assertThrows(() => parseCompare([TINY]), OptionError, "needs --prompt");
  assertThrows(() => command("--reference", "fp4"), OptionError, "--reference: expected one of int8, auto");
  await assertRejects(() => compare(command("--max-tokens", "512"), silent), OptionError, "context is 512");
  await assertRejects(
    () => compare(command("--kv-cache-dtype", "fp8", "--reference", "fp8_e4m3"), silent),
    OptionError,
    "Cannot compare fp8_e4m3 with itself",
  );
});
