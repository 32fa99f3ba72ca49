/** Random operations on a small engine, against the fake model's oracle. */

import type { SpeculationOptions } from "../../engine/speculator.ts";
import { assertEquals, assertGreater } from "@std/assert";
import fc from "fast-check";
import { checkRequest } from "../../engine/admission.ts";
import { RequestError } from "../../engine/errors.ts";
import { KvScaleWindow } from "../../engine/kv_scale_window.ts";
import { samplingParams } from "../../engine/sampling_params.ts";
import { expectedOutput, expectedPromptLogprobs, type FakeRunner, VOCAB_SIZE } from "./_fake_model.ts";
import { FakeScales } from "./_fake_scales.ts";
import { Harness, type Transcript } from "./_harness.ts";

const request = fc.record({
  // Half of the prompts begin alike.
  prompt: fc.tuple(
    fc.constantFrom(
      ...[0, 0, 1, 4, 7, 8, 12].map((length) => [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37].slice(0, length)),
    ),
    fc.array(fc.integer({ min: 0, max: VOCAB_SIZE - 1 }), { minLength: 1, maxLength: 14 }),
  ).map(([beginning, rest]) => [...beginning, ...rest]),
  priority: fc.constantFrom(0, 0, 0, -1, 2),
  cacheSalt: fc.constantFrom("", "", "", "a"),
  kvIndex: fc.integer({ min: 0, max: 2 }),
  maxTokens: fc.integer({ min: 1, max: 12 }),
  minTokens: fc.integer({ min: 0, max: 4 }),
  allowedTokenIds: fc.option(fc.uniqueArray(fc.integer({ min: 0, max: 39 }), { minLength: 8 }), { freq: 3 }),
  badWords: fc.array(fc.array(fc.integer({ min: 0, max: 4 }), { minLength: 1, maxLength: 2 }), { maxLength: 3 }),
  stopTokenIds: fc.array(fc.integer({ min: 0, max: VOCAB_SIZE - 1 }), { maxLength: 2 }),
  n: fc.integer({ min: 1, max: 3 }),
  temperature: fc.constantFrom(0, 1),
  seed: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  presencePenalty: fc.constantFrom(0, 0, 1),
  repetitionPenalty: fc.constantFrom(1, 1, 1.5),
  logitBias: fc.constantFrom({}, {}, { 5: 2, 7: -100 }),
  logprobs: fc.constantFrom(null, null, 0, 3),
  promptLogprobs: fc.constantFrom(null, null, null, 0, 4),
  ignoreEos: fc.boolean(),
});

const operation = fc.oneof(
  { weight: 4, arbitrary: fc.record({ type: fc.constant("submit" as const), request }) },
  { weight: 2, arbitrary: fc.record({ type: fc.constant("abort" as const), key: fc.nat(20) }) },
  { weight: 8, arbitrary: fc.record({ type: fc.constant("step" as const) }) },
);

const engine = fc.record({
  pageSize: fc.integer({ min: 1, max: 4 }),
  numPages: fc.integer({ min: 3, max: 20 }),
  maxNumSeqs: fc.integer({ min: 1, max: 5 }),
  extraTokens: fc.integer({ min: 0, max: 10 }),
  maxLogitEdits: fc.constantFrom(20, VOCAB_SIZE, 4096),
  maxScores: fc.integer({ min: 1, max: 8 }),
});

/** Longer runs: OCTAVO_MODEL_RUNS=20000 is above 1e6 operations. */
const NUM_RUNS = Number(Deno.env.get("OCTAVO_MODEL_RUNS") ?? 600);

interface Variant {
  readonly caches: boolean;
  readonly looksAhead: boolean;
  readonly numHostPages?: number;
  readonly morePageSizes?: readonly number[];
  /** Tokens after which the scales change, and all that is stored is void. */
  readonly scaleTokens?: number;
  /** Tokens are guessed, most of them wrong. */
  readonly speculation?: SpeculationOptions;
}

const SPECULATION = {
  numSpeculativeTokens: 4,
  promptLookupMin: 1,
  tokenCost: 0.001,
  waitCost: 0,
  fewTokens: Infinity,
  manyCost: 0,
};

const VARIANTS: readonly Variant[] = [
  { caches: false, looksAhead: false },
  { caches: true, looksAhead: false },
  { caches: true, looksAhead: true },
  { caches: true, looksAhead: false, numHostPages: 5 },
  { caches: true, looksAhead: true, numHostPages: 5 },
  { caches: true, looksAhead: true, morePageSizes: [2, 4] },
  { caches: true, looksAhead: true, numHostPages: 5, morePageSizes: [2, 4] },
  { caches: true, looksAhead: true, numHostPages: 5, scaleTokens: 60 },
  { caches: true, looksAhead: false, speculation: SPECULATION },
  { caches: true, looksAhead: true, numHostPages: 5, morePageSizes: [2, 4], speculation: SPECULATION },
];

for (const options of VARIANTS) {
  const name = `${options.caches ? "with" : "without"} prefix caching${options.looksAhead ? " and look-ahead" : ""}` +
    (options.numHostPages === undefined ? "" : " and a host tier") +
    (options.morePageSizes === undefined ? "" : " and several KV dtypes") +
    (options.scaleTokens === undefined ? "" : " and calculated scales") +
    (options.speculation === undefined ? "" : " and guesses");
  Deno.test(`StepLoop gives every request its own tokens and one end at random ${name}`, () => {
    let numPreemptions = 0;
    let numRequests = 0;
    let numHits = 0;
    let numRestored = 0;
    let numGuessed = 0;
    let numKept = 0;
    let numOperations = 0;
    const property = fc.property(engine, fc.array(operation, { maxLength: 120, size: "max" }), (config, operations) => {
      const { numHostPages = 0, morePageSizes = [], scaleTokens } = options;
      const harness = new Harness({
        ...config,
        numHostPages,
        morePageSizes,
        maxNumBatchedTokens: config.maxNumSeqs + config.extraTokens,
        ...options.speculation === undefined ? {} : { maxSamples: 2 * config.maxNumSeqs },
      }, {
        ...options,
        // Reading a page waits for its copies, which shall be as late as they may.
        checksPages: numHostPages === 0 && scaleTokens === undefined,
        ...scaleTokens === undefined ? {} : { kvScaleWindow: (runner) => changingWindow(runner, scaleTokens) },
      });
      numOperations += operations.length;
      const aborted = new Set<number>();
      for (const op of operations) {
        if (op.type === "step") harness.step();
        else if (op.type === "submit") numRequests += submit(harness, op.request);
        else if (harness.transcripts.has(op.key)) {
          const free = harness.loop.numFreePages;
          harness.abort(op.key);
          aborted.add(op.key);
          assertEquals(harness.loop.numFreePages >= free, true, "an abort takes no page");
          assertEquals(harness.transcripts.get(op.key)!.numTerminals, 1);
        }
      }
      harness.finish();
      numGuessed += harness.counters.get("guessedTokensTotal");
      numKept += harness.counters.get("keptTokensTotal");
      numRestored += harness.counters.get("kvRestoredTokensTotal");
      numHits += harness.counters.get("prefixCacheHitsTotal");
      numPreemptions += harness.counters.get("preemptionsTotal");
      for (const [key, transcript] of harness.transcripts) checkTranscript(transcript, aborted.has(key));
    });
    fc.assert(property, { numRuns: NUM_RUNS, seed: 20260101 });
    if (NUM_RUNS > 600) console.log({ name, numOperations, numRequests, numPreemptions, numHits, numRestored });
    // The cases are worth something only when they are crowded.
    assertGreater(numPreemptions, 300);
    assertGreater(numRequests, 4000);
    assertEquals(numHits > 0, options.caches);
    assertEquals(
      [numGuessed > 500, numKept > 30],
      Array(2).fill(options.speculation !== undefined),
      `${numKept} of ${numGuessed}`,
    );
    assertEquals(numRestored > 300, options.numHostPages !== undefined);
  });
}

function changingWindow(runner: FakeRunner, numTokens: number): KvScaleWindow {
  const scales = new FakeScales(runner, [0.5, 2]);
  return new KvScaleWindow(scales, numTokens, () => scales.ends.push({ scales: [0.5, 2], numTokens }));
}

/** Submits a request if it can ever run; returns how many were. */
function submit(
  harness: Harness,
  { prompt, priority, cacheSalt, kvIndex: anyIndex, ...options }: typeof request extends fc.Arbitrary<infer T> ? T
    : never,
) {
  const sampling = samplingParams({ ...options, minTokens: Math.min(options.minTokens, options.maxTokens) });
  const { numPages, maxNumSeqs, maxLogitEdits = 0 } = harness.config;
  const pageSizes = [harness.config.pageSize, ...harness.config.morePageSizes ?? []];
  const kvIndex = anyIndex % pageSizes.length;
  const pageSize = pageSizes[kvIndex]!;
  try {
    checkRequest({ id: "", promptTokenIds: prompt, sampling }, {
      maxModelLen: numPages * pageSize + 1,
      vocabSize: VOCAB_SIZE,
      numEosTokenIds: 1,
      kvKinds: [{ kvDtype: "float32", pageSize }],
      numPages,
      maxNumSeqs,
      maxLogprobs: 4,
      maxLogitEdits,
    });
  } catch (error) {
    if (error instanceof RequestError) return 0;
    throw error;
  }
  harness.submit(prompt, sampling, { priority, cacheSalt, kvIndex });
  return 1;
}

function checkTranscript(transcript: Transcript, isAborted: boolean) {
  const { prompt, sampling, sequences, deltas, usage, numTerminals, promptLogprobs } = transcript;
  assertEquals(numTerminals, 1);
  const hasOutput = deltas.some(({ tokenIds }) => tokenIds.length > 0);
  if (sampling.promptLogprobs === null) assertEquals(promptLogprobs, null);
  else if (promptLogprobs !== null || hasOutput) {
    assertEquals(promptLogprobs, expectedPromptLogprobs(prompt, sampling.promptLogprobs));
  }
  sequences.forEach(({ tokenIds, finishReason }, index) => {
    const expected = expectedOutput(prompt, sampling, index);
    if (finishReason === "abort") {
      assertEquals(isAborted, true);
      assertEquals(tokenIds, expected.slice(0, tokenIds.length));
    } else {
      assertEquals(tokenIds, expected);
    }
  });
  assertEquals(usage, {
    promptTokens: prompt.length,
    completionTokens: sequences.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0),
    cachedTokens: usage!.cachedTokens,
    ...usage!.guesses && { guesses: usage!.guesses },
  });
  for (const { tokenIds, logprobs } of deltas) {
    if (sampling.logprobs === null) assertEquals(logprobs, null);
    else {assertEquals(
        logprobs!.map((entry) => [entry.tokenId, entry.top.length]),
        tokenIds.map((id) => [id, sampling.logprobs]),
      );}
  }
}
