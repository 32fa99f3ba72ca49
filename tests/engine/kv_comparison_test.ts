import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { measureKvAccuracy } from "../../engine/kv_accuracy.ts";
import { KvComparison, type KvVariant } from "../../engine/kv_comparison.ts";
import { Library, NativeError } from "../../ffi/library.ts";
import type { NativeModel } from "../../ffi/native_model.ts";
import { libraryPath } from "../native/_library.ts";
import { loadModel, makeRandomModel, openEngine, randomTokens, runStep } from "../native/_random_model.ts";

const LENGTH = 300; // more than one step's tokens, and no whole number of rows of logits
const FLOAT32: KvVariant = { name: "float32", dtype: "float32", scales: null, kMean: null };
const FP8: KvVariant = { name: "fp8", dtype: "fp8_e4m3", scales: null, kMean: null };

function withModel(test: (native: NativeModel) => void): void {
  const model = makeRandomModel({ config: { maxModelLen: LENGTH } });
  using library = new Library(libraryPath());
  using native = loadModel(library, model);
  test(native);
}

/** Log-probabilities after each token, one step a token. */
function stepByStep(native: NativeModel, kvDtype: KvVariant["dtype"], tokens: readonly number[]): number[][] {
  using engine = openEngine(native, { kvDtype, maxPagesPerSeq: 19 });
  const pages = Array.from({ length: 19 }, (_, page) => page);
  return tokens.map((token, cached) => {
    const [logits] = runStep(engine, [{ tokens: [token], cached, pages }]);
    const max = Math.max(...logits!);
    const logSum = max + Math.log(logits!.reduce((sum, x) => sum + Math.exp(x - max), 0));
    return Array.from(logits!, (x) => x - logSum);
  });
}

Deno.test("KvComparison.compare() gives at every position what single steps of each cache give", () =>
  withModel((native) => {
    const tokens = randomTokens(LENGTH, native.config.vocabSize, 7);
    const targets = [...tokens.slice(1), -1];
    using comparison = new KvComparison(native, {
      variants: [FLOAT32, FP8, { ...FLOAT32, name: "again" }],
      maxTokens: LENGTH,
      numThreads: 2,
    });
    const [fp8, again] = comparison.compare(tokens, targets);
    assertEquals([comparison.length, fp8!.length, again!.length], [LENGTH, LENGTH, LENGTH]);
    const [p, q] = [stepByStep(native, "float32", tokens), stepByStep(native, "fp8_e4m3", tokens)];
    for (let i = 0; i < LENGTH; i++) {
      const kl = p[i]!.reduce((sum, x, token) => sum + Math.exp(x) * (x - q[i]![token]!), 0);
      assertAlmostEquals(fp8![i]!.kl, kl, 1e-5);
      assertEquals(fp8![i]!.referenceTop, p[i]!.indexOf(Math.max(...p[i]!)));
      assertEquals(fp8![i]!.top, q[i]!.indexOf(Math.max(...q[i]!)));
      if (i + 1 < LENGTH) {
        assertAlmostEquals(fp8![i]!.referenceLogprob, p[i]![tokens[i + 1]!]!, 1e-5);
        assertAlmostEquals(fp8![i]!.logprob, q[i]![tokens[i + 1]!]!, 1e-5);
      }
      assertEquals(again![i]!.kl, 0);
    }
    assert(fp8!.some(({ kl }) => kl > 1e-4));
    // Taken up again in the middle, after a fill, it is the same.
    comparison.truncate(0);
    comparison.fill(tokens.slice(0, 270));
    assertEquals(comparison.compare(tokens.slice(270), targets.slice(270))[0], fp8!.slice(270));
    assertThrows(() => comparison.truncate(LENGTH + 1), RangeError, "there are 300");
  }));

Deno.test("KvComparison names the cache that the model cannot have", () =>
  withModel((native) => {
    const variants = [FLOAT32, { name: "int4", dtype: "int4", scales: null, kMean: null } as const];
    assertThrows(
      () => new KvComparison(native, { variants, maxTokens: 32, numThreads: 1 }),
      NativeError,
      "Cannot open a KV cache of int4: ",
    );
  }));

Deno.test("measureKvAccuracy() reports perplexity, KL, agreement and how long greedy decoding is the same", () =>
  withModel((native) => {
    const samples = [randomTokens(120, native.config.vocabSize, 1), randomTokens(41, native.config.vocabSize, 2)];
    const variants = [FLOAT32, { ...FLOAT32, name: "again" }, FP8];
    using comparison = new KvComparison(native, { variants, maxTokens: 120, numThreads: 2 });
    const counts: number[] = [];
    const [reference, again, fp8] = measureKvAccuracy(comparison, {
      samples,
      greedyTokens: 24,
      onSample: (count) => counts.push(count),
    });
    assertEquals(counts, [1, 2]);
    const expected = { p: [] as number[], kl: [] as number[], delta: [] as number[], agreeing: 0 };
    for (const tokens of samples) {
      const [p, q] = [stepByStep(native, "float32", tokens), stepByStep(native, "fp8_e4m3", tokens)];
      tokens.forEach((_, i) => {
        expected.kl.push(p[i]!.reduce((sum, x, token) => sum + Math.exp(x) * (x - q[i]![token]!), 0));
        if (p[i]!.indexOf(Math.max(...p[i]!)) === q[i]!.indexOf(Math.max(...q[i]!))) expected.agreeing++;
        if (i + 1 === tokens.length) return;
        expected.p.push(-p[i]![tokens[i + 1]!]!);
        expected.delta.push(p[i]![tokens[i + 1]!]! - q[i]![tokens[i + 1]!]!);
      });
    }
    const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
    const sorted = expected.kl.toSorted((a, b) => a - b);
    assertAlmostEquals(reference!.perplexity, Math.exp(mean(expected.p)), 1e-3);
    assertAlmostEquals(fp8!.klMean, mean(expected.kl), 1e-6);
    assertAlmostEquals(fp8!.klP99, sorted[158]! + 0.4 * (sorted[159]! - sorted[158]!), 1e-5);
    assertAlmostEquals(fp8!.klMax, sorted.at(-1)!, 1e-5);
    assertEquals(fp8!.top1Agreement, expected.agreeing / 161);
    const delta = mean(expected.delta);
    const deviation = Math.sqrt(expected.delta.reduce((sum, value) => sum + (value - delta) ** 2, 0) / (159 - 1));
    assertAlmostEquals(fp8!.deltaNll, delta, 1e-5);
    assertAlmostEquals(fp8!.deltaNllStderr, deviation / Math.sqrt(159), 1e-5);
    // 20 is all that half of the second sample allows.
    assertEquals(again!.greedy, { tokens: 22, of: 22, identical: 1 });
    assertEquals([again!.klMean, again!.top1Agreement, reference!.greedy], [0, 1, null]);
    assert(fp8!.greedy!.tokens <= 22);
    const [a, b] = (["float32", "fp8_e4m3"] as const).map((dtype) => greedy(native, dtype, samples[0]!, 24));
    const [c, e] = (["float32", "fp8_e4m3"] as const).map((dtype) => greedy(native, dtype, samples[1]!, 20));
    assertEquals(fp8!.greedy!.tokens, (alike(a!, b!) + alike(c!, e!)) / 2);
  }));

/** Greedy decoding from the middle of a text. */
function greedy(native: NativeModel, kvDtype: KvVariant["dtype"], tokens: readonly number[], count: number): number[] {
  using engine = openEngine(native, { kvDtype });
  const pages = Array.from({ length: 16 }, (_, page) => page);
  const sequence = tokens.slice(0, Math.ceil(tokens.length / 2));
  const half = sequence.length;
  for (let cached = 0; sequence.length < half + count;) {
    const [logits] = runStep(engine, [{ tokens: sequence.slice(cached), cached, pages }]);
    cached = sequence.length;
    sequence.push(logits!.indexOf(Math.max(...logits!)));
  }
  return sequence.slice(half);
}

/** Tokens before the first that differs. */
function alike(a: readonly number[], b: readonly number[]): number {
  const different = a.findIndex((token, i) => token !== b[i]);
  return different < 0 ? a.length : different;
}
