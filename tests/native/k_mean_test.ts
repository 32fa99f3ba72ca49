/** K's mean, which rotated formats take off: attention does not see a constant in K. */

import { assertEquals, assertGreater, assertLess, assertThrows } from "@std/assert";
import { Library } from "../../ffi/library.ts";
import { libraryPath } from "./_library.ts";
import {
  loadModel,
  makeRandomModel,
  openEngine,
  type RandomModelOptions,
  randomTokens,
  runStep,
} from "./_random_model.ts";

const library = new Library(libraryPath());
const HEAD_DIM = 32;
const SHAPE = {
  headDim: HEAD_DIM,
  attnSoftmaxScale: HEAD_DIM ** -0.5,
  // Slow enough that a bias of K stays where it is over a prompt.
  invFreq: Float32Array.from({ length: HEAD_DIM }, (_, i) => 1e-4 / (1 + i % 16)),
};

/** A model whose K has a bias far larger than what differs from token to token, as Qwen2's. */
function biasedModel(options: RandomModelOptions = {}) {
  const model = makeRandomModel({
    ...options,
    config: { ...SHAPE, ...options.config },
    roles: ["k_bias", ...options.roles ?? []],
  });
  const view = new DataView(model.bytes.buffer);
  for (const { role, offsetBytes, cols } of model.tensors) {
    if (role !== "k_bias") continue;
    for (let i = 0; i < cols; i++) view.setFloat32(offsetBytes + 4 * i, 40 * Math.sin(i), true);
  }
  return model;
}

const model = biasedModel();
const { numLayers, numKvHeads, vocabSize } = model.config;
const prompt = randomTokens(60, vocabSize, 5);
const step = [{ tokens: prompt, pages: [0, 1, 2, 3] }];

/** Of the prompt, as calibration makes it. */
function meanOfPrompt(native: ReturnType<typeof loadModel>): Float32Array<ArrayBuffer> {
  using engine = openEngine(native, { kvStats: "histograms" });
  runStep(engine, step);
  return Float32Array.from(engine.kvHistograms().kSum, (sum) => sum / prompt.length);
}

function distance(a: ArrayLike<number>, b: ArrayLike<number>): number {
  return Math.sqrt(Array.from(a).reduce((sum, x, i) => sum + (x - b[i]!) ** 2, 0) / a.length);
}

Deno.test("octavo_engine_create() with k_mean stores K without its constant, which attention does not miss", () => {
  using native = loadModel(library, model);
  const kMean = meanOfPrompt(native);
  using exact = openEngine(native);
  const [expected] = runStep(exact, step);
  // V's 4 bits hide most of what K gains.
  for (const [kvDtype, part] of [["int8", 1 / 4], ["k8v4", 1], ["int4", 1 / 2]] as const) {
    using plain = openEngine(native, { kvDtype });
    using less = openEngine(native, { kvDtype, kMean, kvStats: "errors" });
    const [before, after] = [plain, less].map((engine) => distance(runStep(engine, step)[0]!, expected!));
    assertLess(after!, before! * part, kvDtype);
    // The statistics are of K itself, the mean added again.
    const [absmax] = less.kvStats().stats;
    assertGreater(absmax!, 30);
  }
});

Deno.test("octavo_engine_create() takes k_mean as part of every step: chunked and decoded as whole", () => {
  using native = loadModel(library, model);
  const kMean = meanOfPrompt(native);
  using whole = openEngine(native, { kvDtype: "int8", kMean });
  using chunked = openEngine(native, { kvDtype: "int8", kMean });
  const [expected] = runStep(whole, step);
  const { pages } = step[0]!;
  runStep(chunked, [{ tokens: prompt.slice(0, 17), pages, sample: 0 }]);
  runStep(chunked, [{ tokens: prompt.slice(17, 59), cached: 17, pages, sample: 0 }]);
  assertEquals(runStep(chunked, [{ tokens: prompt.slice(59), cached: 59, pages }])[0], expected);
});

Deno.test("octavo_engine_create() leaves k_mean alone in formats that are not rotated", () => {
  using native = loadModel(library, model);
  const kMean = meanOfPrompt(native);
  for (const kvDtype of ["float32", "bfloat16", "fp8_e4m3", "int8_per_token_head"] as const) {
    using plain = openEngine(native, { kvDtype });
    using given = openEngine(native, { kvDtype, kMean });
    assertEquals(runStep(given, step), runStep(plain, step), kvDtype);
  }
});

Deno.test("octavo_engine_create() refuses a k_mean that the softmax would see, or that is no number", () => {
  const kMean = new Float32Array(numLayers * numKvHeads * HEAD_DIM);
  kMean[kMean.length - 1] = 1;
  const models = {
    "soft-cap": biasedModel({ config: { attnLogitSoftcap: 30 } }),
    sinks: biasedModel({ roles: ["attn_sinks"] }),
  };
  for (const [what, model] of Object.entries(models)) {
    using native = loadModel(library, model);
    assertThrows(
      () => openEngine(native, { kvDtype: "int4", kMean }),
      Error,
      `K's mean of layer 1 must be 0: the ${what} of its attention would see it`,
    );
    // Not used, or all 0.
    openEngine(native, { kvDtype: "bfloat16", kMean }).close();
    openEngine(native, { kvDtype: "int4", kMean: new Float32Array(kMean.length) }).close();
  }
  using native = loadModel(library, model);
  kMean[3] = NaN;
  assertThrows(
    () => openEngine(native, { kvDtype: "int4", kMean }),
    Error,
    "K's mean of layer 0 must be finite, found nan",
  );
  assertThrows(() => openEngine(native, { kvDtype: "int4", kMean: kMean.slice(1) }), RangeError, "128 means of K");
});
