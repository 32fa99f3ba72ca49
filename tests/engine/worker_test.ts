/** The engine as it is: its Worker, the native library and a tiny checkpoint. */

import {
  assert,
  assertAlmostEquals,
  assertEquals,
  assertGreater,
  assertNotEquals,
  assertRejects,
  assertThrows,
} from "@std/assert";
import { EngineError, RequestError } from "../../engine/errors.ts";
import { collect, type Collected } from "../../engine/collect.ts";
import { KV_CACHE_DTYPE_NAMES } from "../../engine/kv_cache_plan.ts";
import { type SamplingOptions, samplingParams } from "../../engine/sampling_params.ts";
import { startEngine, type StartEngineOptions } from "../../engine/start_engine.ts";
import type { Engine, SamplingParams } from "../../engine/types.ts";
import { openModel } from "../../models/open_model.ts";
import { greedy } from "./_fake_model.ts";

const DATA = new URL("../data/tiny/", import.meta.url);
const GOLDEN = JSON.parse(await Deno.readTextFile(new URL("golden.json", DATA)));
const PROMPT: number[] = GOLDEN.prompt;
/** Greedy tokens of Hugging Face transformers in f32. */
const EXPECTED: number[] = GOLDEN.folders.base.exact_kv.greedy;
const SAMPLING = greedy({ maxTokens: EXPECTED.length, ignoreEos: true });

const MODEL = await openModel(decodeURIComponent(new URL("base", DATA).pathname));

function start(options: Partial<StartEngineOptions> = {}): Promise<Engine> {
  return startEngine({
    model: MODEL,
    kvCacheDtype: "float32",
    kvCacheMemory: { bytes: 16 * 2 ** 20 },
    maxNumSeqs: 16,
    maxNumBatchedTokens: 64,
    pageSize: 16,
    numThreads: 1,
    maxQueuedRequests: 100,
    ...options,
  });
}

let numRequests = 0;

function complete(engine: Engine, promptTokenIds: number[], sampling: SamplingParams = SAMPLING): Promise<Collected> {
  return collect(engine, { id: `request-${numRequests++}`, promptTokenIds, sampling }).outputs;
}

Deno.test("startEngine() reports progress and what it has decided", async () => {
  const progress: number[] = [];
  await using engine = await start({
    kvCacheDtype: "auto",
    onProgress: ({ doneBytes, totalBytes }) => progress.push(doneBytes / totalBytes),
  });
  assertEquals(progress.at(-1), 1);
  assertEquals(progress, progress.toSorted((a, b) => a - b));
  const { info } = engine;
  assertEquals([info.kvCacheDtype, info.kvCacheDtypeReason], ["bfloat16", "the model's own dtype"]);
  // K and V of 3 layers, 2 kv heads of 32 in 2 bytes.
  assertEquals(info.kvBytesPerToken, 2 * 3 * 2 * 32 * 2);
  assertEquals(info.numKvTokens, info.numPages * 16);
  // 16 MiB hold more than the most that 16 sequences of 512 tokens can use.
  assertEquals(info.numKvTokens, 16 * 512);
  assertEquals([info.maxModelLen, info.maxNumSeqs, info.numThreads], [512, 16, 1]);
  assertGreater(info.weightBytes, 0);
  assertEquals(info.device.backend, "cpu");
});

for (const pageSize of [16, 32, 64]) {
  Deno.test(`Engine gives Hugging Face's greedy tokens with pages of ${pageSize}, chunked and batched`, async () => {
    await using engine = await start({ pageSize, maxNumBatchedTokens: 16 });
    const prompts = [PROMPT, PROMPT.slice(0, 7), PROMPT, PROMPT.slice(3)];
    const [first, , third] = await Promise.all(prompts.map((prompt) => complete(engine, prompt)));
    assertEquals(first![0].tokenIds, EXPECTED);
    assertEquals(third![0].tokenIds, EXPECTED);
  });
}

Deno.test("Engine gives the same tokens when its cache is too small for all", async () => {
  const prompts = Array.from({ length: 8 }, (_, i) => PROMPT.slice(i, i + 8));
  const sampling = { ...SAMPLING, maxTokens: 40 };
  const roomy = await start({ maxModelLen: 64 });
  const expected = await Promise.all(prompts.map((prompt) => complete(roomy, prompt, sampling)));
  await roomy.close();
  // 6 pages; a sequence begins with one and ends with three.
  await using tight = await start({ maxModelLen: 64, kvCacheMemory: { bytes: 6 * 16 * 1536 } });
  assertEquals(tight.info.numPages, 6);
  assertEquals(await Promise.all(prompts.map((prompt) => complete(tight, prompt, sampling))), expected);
  assertGreater(tight.stats().preemptionsTotal, 0);
});

Deno.test("Engine samples by seed alone, whatever else is in the batch", async () => {
  await using engine = await start();
  const sampling = { ...SAMPLING, temperature: 1, seed: 5n, n: 3 };
  const alone = await complete(engine, PROMPT, sampling);
  const [again] = await Promise.all([
    complete(engine, PROMPT, sampling),
    ...Array.from({ length: 6 }, (_, i) => complete(engine, PROMPT.slice(i + 1), { ...sampling, seed: BigInt(i) })),
  ]);
  assertEquals(again, alone);
  const second = await complete(engine, PROMPT, { ...sampling, seed: 6n, n: 1 });
  assertEquals(second[0].tokenIds, alone[1]!.tokenIds);
});

Deno.test("Engine forks a prompt to what each sequence gives alone, bit for bit", async () => {
  for (const kvCacheDtype of ["float32", "fp8", "int4"] as const) {
    for (const enablePrefixCaching of [true, false]) {
      await using engine = await start({ kvCacheDtype, enablePrefixCaching, checkPages: true });
      // 37 tokens: two pages are shared, the third is each sequence's own.
      const prompt = Array.from({ length: 37 }, (_, i) => (PROMPT[i % PROMPT.length]! + 3 * i) % 300);
      const sampling = { ...SAMPLING, temperature: 1, seed: 9n, logprobs: 4 };
      const forked = await complete(engine, prompt, { ...sampling, n: 4 });
      for (const { index, ...output } of forked) {
        const alone = await complete(engine, prompt, { ...sampling, seed: 9n + BigInt(index) });
        assertEquals({ ...output, index: 0 }, alone[0]);
      }
    }
  }
});

Deno.test("Engine gives the same tokens and log-probabilities with guesses, bit for bit", async () => {
  for (const kvCacheDtype of ["float32", "fp8", "int4"] as const) {
    await using plain = await start({ kvCacheDtype, numSpeculativeTokens: 0 });
    await using guessing = await start({ kvCacheDtype, numSpeculativeTokens: 6, promptLookupMin: 1, checkPages: true });
    const prompt = [...PROMPT, ...PROMPT, ...PROMPT];
    const run = (engine: Engine) =>
      Promise.all([0, 0.3, 0.3, 1].map((temperature, i) =>
        // Few tokens to choose from: guesses are right and wrong by turns.
        complete(engine, prompt, {
          ...SAMPLING,
          maxTokens: 80,
          temperature,
          seed: BigInt(i),
          logprobs: 2,
          n: i === 3 ? 2 : 1,
          allowedTokenIds: i === 2 ? null : PROMPT.slice(0, 3),
        })
      ));
    assertEquals(await run(guessing), await run(plain));
    const { guessedTokensTotal, keptTokensTotal } = guessing.stats();
    assertEquals([guessedTokensTotal > keptTokensTotal, keptTokensTotal > 20], [true, true]);
    assertEquals(plain.stats().guessedTokensTotal, 0);
  }
});

Deno.test("Engine gives log-probabilities that follow bias and bans", async () => {
  await using engine = await start();
  const [best = 0] = EXPECTED;
  const [plain] = await complete(engine, PROMPT, { ...SAMPLING, maxTokens: 1, logprobs: 3 });
  const { top, logprob } = plain.logprobs![0]!;
  assertEquals([top.length, top[0]!.tokenId], [3, best]);
  assertAlmostEquals(top[0]!.logprob, logprob, 1e-6);
  assertAlmostEquals(top[0]!.logprob - top[1]!.logprob, GOLDEN.folders.base.exact_kv.greedy_gap[0], 2e-2);
  const [biased] = await complete(engine, PROMPT, { ...SAMPLING, maxTokens: 1, logitBias: new Map([[best, -100]]) });
  assertEquals(biased.tokenIds, [top[1]!.tokenId]);
  // The best token ends the sequence, but not as the first.
  const ended = { ...SAMPLING, stopTokenIds: [best] };
  assertEquals((await complete(engine, PROMPT, ended))[0].stopReason, best);
  const [later] = await complete(engine, PROMPT, { ...ended, minTokens: 1 });
  assertEquals(later.tokenIds[0], top[1]!.tokenId);
});

Deno.test("Engine tells a prompt's log-probabilities as those after its beginnings, however it is served", async () => {
  const prompt = Array.from({ length: 41 }, (_, i) => (PROMPT[i % PROMPT.length]! + 3 * i) % 300);
  // Nothing that shapes the output shows in them.
  const shaped = samplingParams({
    temperature: 2,
    maxTokens: 8,
    minTokens: 3,
    n: 3,
    seed: 1,
    promptLogprobs: 5,
    logitBias: { [prompt[5]!]: -100 },
    allowedTokenIds: Array.from({ length: 200 }, (_, i) => i),
    badWords: [[prompt[9]!]],
    stopTokenIds: [7],
    repetitionPenalty: 2,
    ignoreEos: true,
  });
  const one = { ...SAMPLING, maxTokens: 1, logprobs: 5 };
  await using engine = await start({ maxNumBatchedTokens: 24, maxModelLen: 64 });
  const ask = async (engine: Engine, sampling: SamplingParams) => {
    const request = collect(engine, { id: `request-${numRequests++}`, promptTokenIds: prompt, sampling });
    return { outputs: await request.outputs, promptLogprobs: request.promptLogprobs()! };
  };
  const cold = await ask(engine, shaped);
  assertEquals(cold.promptLogprobs.length, prompt.length);
  assertEquals(cold.promptLogprobs[0], null);
  for (const i of [1, 2, 15, 16, 17, 23, 24, 40]) {
    const [{ logprobs }] = await complete(engine, prompt.slice(0, i), one);
    const { tokenId, logprob, rank, top } = cold.promptLogprobs[i]!;
    assertEquals([tokenId, top], [prompt[i]!, logprobs![0]!.top]);
    if (rank <= 5) assertEquals(top[rank - 1], { tokenId, logprob });
    else assert(logprob < top[4]!.logprob);
  }
  assertEquals(await ask(engine, shaped), cold);
  const plain = await complete(engine, prompt, { ...shaped, promptLogprobs: null });
  assertEquals(plain, cold.outputs);
  // 6 pages: each request needs 4, so they take turns.
  await using tight = await start({
    maxModelLen: 64,
    kvCacheMemory: { bytes: 6 * 16 * 1536 },
    maxNumBatchedTokens: 24,
  });
  for (const again of await Promise.all([ask(tight, shaped), ask(tight, shaped), ask(tight, shaped)])) {
    assertEquals(again, cold);
  }
});

// A step that the library refuses ends every request: no sampling param that is accepted may be refused there.
Deno.test("Engine survives the ends of every sampling param's range", async () => {
  await using engine = await start();
  const ends: SamplingOptions[] = [
    { temperature: 1e-300, topP: 1e-300, minP: 1e-300, topK: 2 ** 31 - 1 },
    { temperature: 100, topP: 1, minP: 1, topK: 1, repetitionPenalty: 100, presencePenalty: 2, frequencyPenalty: 2 },
    { temperature: 1e-5, repetitionPenalty: 0.01, presencePenalty: -2, frequencyPenalty: -2, seed: 2n ** 64n - 1n },
    { logitBias: Object.fromEntries(Array.from({ length: 320 }, (_, id) => [id, id % 2 ? 100 : -100])), logprobs: 20 },
    { stopTokenIds: Array.from({ length: 64 }, (_, id) => id), minTokens: 8, n: 128, stop: "x".repeat(1024) },
  ];
  const outputs = await Promise.all(
    ends.map((options) => complete(engine, PROMPT, samplingParams({ ...options, maxTokens: 8, ignoreEos: true }))),
  );
  for (const output of outputs) for (const { tokenIds } of output) assertEquals(tokenIds.length, 8);
});

Deno.test("Engine serves every KV dtype", async () => {
  for (const kvCacheDtype of KV_CACHE_DTYPE_NAMES) {
    await using engine = await start({ kvCacheDtype });
    const [{ tokenIds, finishReason }] = await complete(engine, PROMPT);
    assertEquals([tokenIds.length, finishReason], [EXPECTED.length, "length"]);
    // The first token's logits are 0.6 nat apart.
    assertEquals(tokenIds[0], EXPECTED[0]);
  }
});

// After omlx#2255 and vllm#50702: a cached prefix that gave other text than a cold one.
Deno.test("Engine gives the same tokens cold, warm, chunked, batched and preempted, with every KV dtype", async () => {
  const prompt = Array.from({ length: 50 }, (_, i) => PROMPT[i % PROMPT.length]! + (i >> 4));
  const sampling = greedy({ maxTokens: 12, ignoreEos: true });
  for (const kvCacheDtype of KV_CACHE_DTYPE_NAMES) {
    await using cold = await start({ kvCacheDtype, enablePrefixCaching: false });
    await using warm = await start({ kvCacheDtype, maxNumBatchedTokens: 16 });
    const expected = await complete(cold, prompt, sampling);
    assertEquals(await complete(cold, prompt, sampling), expected);
    assertEquals(cold.stats().prefixCacheHitsTotal, 0);
    assertEquals(await complete(warm, prompt, sampling), expected);
    const again = await Promise.all([1, 2, 3].map(() => complete(warm, prompt, sampling)));
    for (const outputs of again) assertEquals(outputs, expected, kvCacheDtype);
    assertEquals(warm.stats().prefixCacheHitsTotal, 3 * 48);
    // 6 pages; each of three sequences begins with two and ends with four.
    const bytes = 6 * 16 * cold.info.kvBytesPerToken;
    await using tight = await start({ kvCacheDtype, kvCacheMemory: { bytes }, maxModelLen: 64 });
    const prompts = [0, 1, 2].map((i) => prompt.slice(i, i + 30));
    const long = { ...sampling, maxTokens: 30 };
    const alone = [];
    for (const one of prompts) alone.push(await complete(cold, one, long));
    assertEquals(await Promise.all(prompts.map((one) => complete(tight, one, long))), alone, kvCacheDtype);
    assertGreater(tight.stats().preemptionsTotal, 0);
  }
});

Deno.test("Engine restores evicted prompts from host memory and gives what it gives without, in every KV dtype", async () => {
  const vocabSize = MODEL.config.vocabSize;
  const prompts = [1, 2, 3, 4].map((seed) =>
    Array.from({ length: 200 }, (_, i) => (seed * 31 + i * (i + seed)) % vocabSize)
  );
  for (const kvCacheDtype of KV_CACHE_DTYPE_NAMES) {
    await using cold = await start({ kvCacheDtype, enablePrefixCaching: false, maxModelLen: 256 });
    const expected: Collected[] = [];
    for (const prompt of prompts) expected.push(await complete(cold, prompt));
    const pageBytes = cold.info.kvBytesPerToken * 16;
    await using engine = await start({
      kvCacheDtype,
      maxModelLen: 256,
      kvCacheMemory: { bytes: 18 * pageBytes },
      kvOffloadMemory: 40.5 * pageBytes,
    });
    assertEquals([engine.info.numPages, engine.info.numHostPages], [18, 40]);
    for (let round = 0; round < 2; round++) {
      for (const [i, prompt] of prompts.entries()) {
        const before = engine.stats().prefixCacheHitsTotal;
        assertEquals(await complete(engine, prompt), expected[i]!, kvCacheDtype);
        if (i === 0) assertEquals(engine.stats().prefixCacheHitsTotal - before, round === 0 ? 0 : 192);
      }
    }
    const { kvOffload, prefixCacheHitsTotal } = engine.stats();
    assertGreater(kvOffload!.restoredTokensTotal, 0);
    assert(kvOffload!.restoredTokensTotal <= prefixCacheHitsTotal);
    assertEquals(kvOffload!.restoredBytesTotal, kvOffload!.restoredTokensTotal / 16 * pageBytes);
    assert(kvOffload!.savedBytesTotal >= 40 * kvOffload!.usage * pageBytes && kvOffload!.usage <= 1);
    // Aborted while it comes back.
    const aborted = collect(engine, { id: `abort-${kvCacheDtype}`, promptTokenIds: prompts[0]!, sampling: SAMPLING });
    aborted.abort();
    await aborted.outputs;
    assertEquals(await complete(engine, prompts[0]!), expected[0]!);
  }
});

const KV_NAMES = ["bfloat16", "fp8", "int8", "k8v4", "int4", "float32"] as const;

Deno.test("Engine gives requests of mixed KV dtypes what each dtype gives alone, bit for bit", async () => {
  const { vocabSize } = MODEL.config;
  const prompts = [150, 41, 97].map((length, p) =>
    Array.from({ length }, (_, i) => (p * 31 + i * (i + 7)) % vocabSize)
  );
  const expected = new Map<string, Collected[]>();
  for (const kvCacheDtype of KV_NAMES) {
    await using alone = await start({ kvCacheDtype, kvCacheDtypeSkipLayers: [1] });
    const outputs: Collected[] = [];
    for (const prompt of prompts) outputs.push(await complete(alone, prompt));
    expected.set(kvCacheDtype, outputs);
  }
  const few = { kvCacheMemory: { bytes: 2 ** 20 }, maxModelLen: 256, kvOffloadMemory: 2 ** 21 };
  for (const memory of [{}, few]) {
    await using engine = await start({
      kvCacheDtype: "auto",
      kvCacheDtypes: KV_NAMES,
      kvCacheDtypeSkipLayers: [1],
      ...memory,
    });
    for (let round = 0; round < 3; round++) {
      const wanted = KV_NAMES.flatMap((kvCacheDtype) => prompts.map((prompt, i) => ({ kvCacheDtype, prompt, i })));
      const outputs = wanted.map(({ kvCacheDtype, prompt }) =>
        collect(engine, { id: `mixed-${numRequests++}`, promptTokenIds: prompt, sampling: SAMPLING, kvCacheDtype })
          .outputs
      );
      const received = await Promise.all(outputs);
      wanted.forEach(({ kvCacheDtype, i }, at) =>
        assertEquals(received[at], expected.get(kvCacheDtype)![i], `${kvCacheDtype} in round ${round}`)
      );
    }
    const stats = engine.stats();
    assertGreater(stats.prefixCacheHitsTotal, 0);
    assertEquals(stats.kvCacheUsageByDtype, KV_NAMES.map(() => 0));
    if (memory === few) assertGreater(stats.kvOffload!.restoredTokensTotal, 0);
  }
});

Deno.test("Engine shares one KV cache among the dtypes that requests may choose", async () => {
  await using engine = await start({
    kvCacheDtype: "auto",
    kvCacheDtypes: ["bfloat16", "fp8"],
    kvCacheMemory: { bytes: 20 * 16 * 768 },
    maxModelLen: 320,
  });
  const { kvCacheDtype, kvCacheDtypeReason, numPages, pageSize, kvCacheDtypes } = engine.info;
  assertEquals([kvCacheDtype, kvCacheDtypeReason, numPages, pageSize], [
    "bfloat16",
    "the first of --kv-cache-dtypes",
    20,
    16,
  ]);
  // K and V of 3 layers, 2 kv heads of 32 in 2 bytes, or in 1.
  assertEquals(kvCacheDtypes, [
    { dtype: "bfloat16", pageSize: 16, numKvTokens: 320, bytesPerToken: 768 },
    { dtype: "fp8_e4m3", pageSize: 32, numKvTokens: 640, bytesPerToken: 384 },
  ]);
  // What one dtype has filled serves the other at once: a sequence needs all pages of the cache.
  const long = Array.from({ length: 300 }, (_, i) => i % MODEL.config.vocabSize);
  const usage: number[][] = [];
  for (const kvCacheDtype of ["bfloat16", "fp8", "bfloat16"]) {
    const { outputs } = collect(engine, {
      id: `long-${numRequests++}`,
      promptTokenIds: long,
      sampling: greedy({ maxTokens: 20, ignoreEos: true }),
      kvCacheDtype,
    });
    const watch = setInterval(() => usage.push([...engine.stats().kvCacheUsageByDtype]), 1);
    assertEquals((await outputs)[0].tokenIds.length, 20);
    clearInterval(watch);
  }
  assertEquals(usage.every(([bfloat16, fp8]) => bfloat16! <= 1 && fp8! <= 0.5 && bfloat16! * fp8! === 0), true);
  const refused = assertThrows(
    () => collect(engine, { id: "no", promptTokenIds: [1], sampling: SAMPLING, kvCacheDtype: "int4" }),
    RequestError,
  );
  assertEquals(refused.param, "kv_cache_dtype");
});

Deno.test("startEngine() refuses lists of KV dtypes that make no sense", async () => {
  const refused = (options: Partial<StartEngineOptions>, text: string) =>
    assertRejects(() => start({ kvCacheDtype: "auto", ...options }), RangeError, text);
  await refused({ kvCacheDtypes: ["fp8", "fp8_e4m3"] }, "kv_cache_dtypes must name each dtype once, found fp8_e4m3");
  await refused({ kvCacheDtypes: [] }, "kv_cache_dtypes must name 1 to 8 dtypes, received 0");
  const other = { kvCacheDtypes: ["fp8", "int8"], kvCacheDtype: "int8" } as const;
  await refused(other, "kv_cache_dtype must be the first of kv_cache_dtypes, fp8_e4m3, found int8");
});

Deno.test("Engine keeps skipped layers in the model's dtype and says so", async () => {
  const all = MODEL.config.layers.map((_, layer) => layer);
  await using plain = await start({ kvCacheDtype: "bfloat16" });
  await using skipped = await start({ kvCacheDtype: "int8", kvCacheDtypeSkipLayers: all });
  assertEquals(skipped.info.kvCacheDtypeReason, `given by --kv-cache-dtype; bfloat16 in layers ${all.join(", ")}`);
  assertEquals(skipped.info.kvBytesPerToken, plain.info.kvBytesPerToken);
  assertEquals(await complete(skipped, PROMPT), await complete(plain, PROMPT));
  await using one = await start({ kvCacheDtype: "fp8", kvCacheDtypeSkipLayers: [0] });
  const half = plain.info.kvBytesPerToken / 2;
  assertEquals(one.info.kvBytesPerToken, half + half / all.length);
  await assertRejects(() => start({ kvCacheDtypeSkipLayers: [99] }), RangeError, "received 99");
});

Deno.test("Engine aborts a request whose consumer goes away and ends the rest", async () => {
  await using engine = await start();
  const long = { ...SAMPLING, maxTokens: 400 };
  const gone = collect(engine, { id: "gone", promptTokenIds: PROMPT, sampling: long });
  const stays = complete(engine, PROMPT);
  gone.abort();
  const [{ finishReason, tokenIds }] = await gone.outputs;
  assertEquals(finishReason, "abort");
  assert(tokenIds.length < 400);
  assertEquals((await stays)[0].tokenIds, EXPECTED);
  assertEquals(engine.stats().kvCacheUsage, 0);
});

Deno.test("startEngine() says what is wrong when it cannot start", async () => {
  await assertRejects(() => start({ library: "/nowhere/lib.so" }), EngineError, "/nowhere/lib.so");
  await assertRejects(() => start({ kvCacheMemory: { bytes: 1000 } }), EngineError, "Raise --kv-cache-memory");
  await assertRejects(() => start({ kvOffloadMemory: 1000 }), EngineError, "kv_offload_memory must hold one page");
  await assertRejects(() => start({ kvOffloadMemory: 1e15 }), EngineError, "host pages need");
  const withoutCache = { kvOffloadMemory: 1e6, enablePrefixCaching: false };
  await assertRejects(() => start(withoutCache), RangeError, "kv_offload_memory needs prefix caching");
  const model = { ...MODEL, tensors: MODEL.tensors.filter(({ role }) => role !== "output_norm") };
  await assertRejects(() => start({ model }), EngineError, "output_norm");
});

Deno.test("startEngine() refuses settings out of range", async () => {
  const refused: [Partial<StartEngineOptions>, string][] = [
    [{ maxModelLen: 513 }, "max_model_len must be an integer from 2 to 512, received 513"],
    [{ maxNumSeqs: 0 }, "max_num_seqs must be an integer from 1 to 4096, received 0"],
    [{ pageSize: 24 }, "page_size must be 16, 32 or 64, received 24"],
    [{ numThreads: -1 }, "num_threads must be an integer from 0 to 1024, received -1"],
  ];
  for (const [options, message] of refused) await assertRejects(() => start(options), RangeError, message);
});

Deno.test("Engine sets an FP8 cache's scales from its first tokens, the same in every run, and says them", async () => {
  const options = {
    kvCacheDtype: "fp8",
    calculateKvScales: true,
    calculateKvScalesTokens: 40,
    kvCacheDtypeSkipLayers: [1],
  } as const;
  const logprobs = async (engine: Engine) => {
    const [out] = await complete(engine, PROMPT, { ...SAMPLING, maxTokens: 4, logprobs: 0 });
    return out.logprobs!.map(({ logprob }) => logprob);
  };
  const runs = [];
  for (let run = 0; run < 2; run++) {
    await using engine = await start(options);
    assertEquals(engine.info.kvLayers.map(({ scales }) => scales), [null, null, null]);
    assertEquals(engine.info.kvScaleTokens, 40);
    for (let i = 0; i < 40; i += PROMPT.length) await complete(engine, PROMPT.map((id) => (id + i) % 64));
    const after = await logprobs(engine);
    assertEquals(engine.info.kvScaleTokens, null);
    runs.push({ after, layers: engine.info.kvLayers });
  }
  assertEquals(runs[0], runs[1]);
  const { layers, after } = runs[0]!;
  assertEquals(layers.map(({ scales }) => scales?.source), ["calculated", undefined, "calculated"]);
  // An engine that is given them stores the same bytes.
  const path = await Deno.makeTempFile({ suffix: ".json" });
  const scales = layers.flatMap((layer, i) =>
    layer.scales === null ? [] : (["k", "v"] as const).map((part) => [
      `model.layers.${i}.self_attn.${part}_scale`,
      layer.scales![part],
    ])
  );
  await Deno.writeTextFile(path, JSON.stringify({ scales: Object.fromEntries(scales) }));
  await using given = await start({ ...options, calculateKvScales: false, kvScales: path });
  await Deno.remove(path);
  assertEquals(await logprobs(given), after);
});

Deno.test("Engine counts what its cache makes of K and V when asked", async () => {
  await using plain = await start({ kvCacheDtype: "fp8" });
  await complete(plain, PROMPT);
  assertEquals(plain.stats().kvCache, null);
  await using engine = await start({ kvCacheDtype: "fp8", kvCacheStats: true });
  const numTokens = PROMPT.length + SAMPLING.maxTokens - 1;
  for (let i = 0; i < 8; i++) await complete(engine, PROMPT.map((id) => (id + i) % 64));
  while (engine.stats().kvCache?.numTokens !== 8 * numTokens) await new Promise((wake) => setTimeout(wake, 5));
  const { numElements, layers } = engine.stats().kvCache!;
  assertEquals(numElements, 8 * numTokens * 3 * 2 * 32);
  assertEquals(layers.length, 3);
  for (const { k, v } of layers) {
    assertEquals([k.numSaturated, v.numSaturated], [0, 0]);
    assertGreater(k.absmax, 0);
    // Three bits of mantissa.
    assertAlmostEquals(k.error!, 0.026, 0.01);
    assertAlmostEquals(v.error!, 0.026, 0.01);
  }
});

Deno.test("Engine takes K's mean of a file off in rotated caches, and says so", async () => {
  const path = await Deno.makeTempFile({ suffix: ".json" });
  // A constant in K changes nothing but the rounding.
  const mean = Array.from({ length: 2 * 32 }, (_, i) => Math.sin(i));
  await Deno.writeTextFile(path, JSON.stringify({ scales: { "model.layers.1.self_attn.k_mean": mean } }));
  await using engine = await start({ kvCacheDtype: "int8", kvScales: path });
  assertEquals(engine.info.kvLayers.map(({ kMean }) => kMean), [null, "file", null]);
  const [out] = await complete(engine, PROMPT, { ...SAMPLING, logprobs: 0 });
  assertEquals(out.tokenIds, EXPECTED);
  await using plain = await start({ kvCacheDtype: "int8" });
  const [without] = await complete(plain, PROMPT, { ...SAMPLING, logprobs: 0 });
  const logprobs = [out, without].map((one) => one.logprobs!.map(({ logprob }) => logprob));
  assertNotEquals(logprobs[0], logprobs[1]);
  logprobs[0]!.forEach((logprob, i) => assertAlmostEquals(logprob, logprobs[1]![i]!, 0.05));
  await assertRejects(() => start({ kvCacheDtype: "int8_per_token_head", kvScales: path }), RangeError, "means of K");
  await Deno.remove(path);
});
