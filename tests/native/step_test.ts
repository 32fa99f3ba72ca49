import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { Library } from "../../ffi/library.ts";
import type { NativeEngine } from "../../ffi/native_engine.ts";
import type { StepBuffer } from "../../ffi/step_buffer.ts";
import { ENGINE_CONFIG, STEP_LAYOUT } from "../../ffi/structs.ts";
import { libraryPath, openLibrary } from "./_library.ts";
import {
  type EngineSettings,
  fillStep,
  loadModel,
  makeRandomModel,
  openEngine,
  randomTokens,
  runStep,
  type StepRow,
} from "./_random_model.ts";
import { sample } from "./_sampler.ts";

const library = new Library(libraryPath());
const sampler = openLibrary(["octavo_sample"]);
const model = makeRandomModel({ roles: ["q_norm", "k_norm"] });
const native = loadModel(library, model);
const { vocabSize } = model.config;
const MASK_WORDS = Math.ceil(vocabSize / 32);
const open = (settings: EngineSettings = {}) => openEngine(native, settings);

/** The logits after prompt, computed alone in one step. */
function logitsAlone(prompt: readonly number[], settings: EngineSettings = {}): Float32Array {
  using engine = open(settings);
  return runStep(engine, [{ tokens: prompt, pages: [0, 1, 2, 3, 4, 5, 6, 7] }])[0]!;
}

Deno.test("octavo_step_layout_get() places the tables in order without overlap", () => {
  const config = {
    kv_dtype: 0,
    page_size: 16,
    num_pages: 10,
    max_num_seqs: 5,
    max_num_batched_tokens: 33,
    max_samples: 6,
    max_pages_per_seq: 7,
    max_logprobs: 3,
    max_logit_edits: 19,
    max_token_masks: 3,
    token_mask_words: 11,
    max_scores: 17,
    num_threads: 0,
    calculate_kv_scales: 0,
    kv_stats: 0,
    num_host_pages: 0,
    num_more_kv_dtypes: 0,
    more_kv_dtypes: new Array(7).fill(0),
    more_page_sizes: new Array(7).fill(0),
  };
  const bytes = new Uint8Array(STEP_LAYOUT.sizeBytes);
  library.check(library.symbols.octavo_step_layout_get(ENGINE_CONFIG.encode(config), bytes));
  const { total_bytes, ...offsets } = STEP_LAYOUT.decode(bytes);
  const words = [
    16,
    33,
    5,
    5,
    35,
    5,
    5,
    5,
    5,
    5,
    5,
    5,
    5,
    10,
    5,
    5,
    6,
    19,
    19,
    19,
    19,
    6,
    33,
    17,
    17,
    17,
    5,
    6,
    6,
    18,
    18,
    17,
    17,
    51,
    51,
  ];
  let end = 0;
  Object.entries(offsets).forEach(([name, offset], i) => {
    assertEquals(offset, end, name);
    end += Math.ceil(words[i]! * 4 / 64) * 64;
  });
  assertEquals(total_bytes, end);
});

Deno.test("octavo_engine_create() refuses settings out of their range", () => {
  const refused = (settings: EngineSettings, message: string) => assertThrows(() => open(settings), Error, message);
  refused({ pageSize: 48 }, "page_size must be 16, 32 or 64, found 48");
  refused({ numPages: 0 }, "num_pages must be 1 to 134217727, found 0");
  refused({ numPages: 2 ** 27 }, "num_pages must be 1 to 134217727, found 134217728");
  refused({ maxNumSeqs: 0 }, "max_num_seqs");
  refused({ maxNumBatchedTokens: -5 }, "max_num_batched_tokens");
  refused({ maxSamples: 0 }, "max_samples must be 1 to 16777216, found 0");
  refused({ maxPagesPerSeq: 0 }, "max_pages_per_seq must be 1 to 134217727, found 0");
  refused({ maxLogprobs: 65 }, "max_logprobs must be 0 to 64, found 65");
  refused({ maxLogitEdits: -1 }, "max_logit_edits");
  refused({ maxTokenMasks: 2, tokenMaskWords: 1 }, `token_mask_words must be ${MASK_WORDS} to ${MASK_WORDS}, found 1`);
  refused({ tokenMaskWords: 3 }, "token_mask_words must be 0 to 0, found 3");
  refused({ maxScores: 129 }, "max_scores must be 0 to 128, found 129");
  refused({ numThreads: -1 }, "num_threads");
  refused({ maxNumSeqs: 2 ** 20, maxPagesPerSeq: 2 ** 20 }, "the step buffer would need");
  refused({ numPages: 2 ** 27 - 1, pageSize: 16 }, "a KV cache of 134217727 pages and 0 host pages need");
  refused({ kvScales: new Float32Array(7).fill(1) }, "expected 8 KV scales, received 7");
  const kvScales = new Float32Array(2 * 2 * 2).fill(1);
  for (const value of [0, -1, NaN, Infinity]) {
    kvScales[7] = value;
    refused({ kvScales }, "V scale of layer 1, kv head 1 must be finite and above 0");
  }
});

/** Input that octavo_step refuses: what is changed in a valid step of two sequences, and what the message says. */
const REFUSED: Record<string, { change: (buffer: StepBuffer) => void; message: string }> = {
  "no sequences": { change: (b) => b.header[0] = 0, message: "num_seqs of the step must be 1 to 8, found 0" },
  "too many sequences": { change: (b) => b.header[0] = 9, message: "found 9" },
  "too many tokens": {
    change: (b) => b.header[1] = 129,
    message: "num_tokens of the step must be 1 to 128, found 129",
  },
  "no tokens": { change: (b) => b.header[1] = 0, message: "num_tokens" },
  "too many edits": { change: (b) => b.header[2] = 13, message: "num_logit_edits of the step must be 0 to 12" },
  "a reserved word": { change: (b) => b.header[15] = 1, message: "a reserved header word" },
  "lengths that do not add up": { change: (b) => b.header[1] = 8, message: "must add up to num_tokens 8, found 7" },
  "lengths that overflow": {
    change: (b) => b.queryLen.set([2 ** 31 - 1, 2 ** 31 - 1]),
    message: "seq_len of sequence 0 must be its query_len 2147483647",
  },
  "an empty query": {
    change: (b) => b.queryLen[1] = 0,
    message: "query_len of sequence 1 must be at least 1, found 0",
  },
  "a negative query": { change: (b) => b.queryLen[0] = -3, message: "query_len of sequence 0" },
  "seq_len below query_len": {
    change: (b) => b.seqLen[1] = 1,
    message: "seq_len of sequence 1 must be its query_len 2",
  },
  "seq_len past the model": { change: (b) => b.seqLen[1] = 257, message: "2 to 256, found 257" },
  "a token of a row that was not there": {
    change: (b) => b.tokens[6] = -2,
    message: "token 6 is -2, but the step before has 1 rows",
  },
  "the lowest token": { change: (b) => b.tokens[0] = -(2 ** 31), message: "token 0 is -2147483648, but" },
  "a token past the vocabulary": { change: (b) => b.tokens[0] = 101, message: "token 0 must be 0 to 100, found 101" },
  "a negative page": { change: (b) => b.pageTable[16] = -1, message: "page 0 of sequence 1 must be 0 to 63, found -1" },
  "a page past the cache": { change: (b) => b.pageTable[17] = 64, message: "page 1 of sequence 1 must be 0 to 63" },
  "one page for two writers": {
    change: (b) => b.pageTable[17] = 5,
    message: "page 1 of sequence 1 is page 5, which sequence 0 writes in the same step",
  },
  "more samples than tokens": {
    change: (b) => b.sample[1] = 3,
    message: "sample of sequence 1 must be 0 to its query_len 2, found 3",
  },
  "a negative sample": {
    change: (b) => b.sample[0] = -1,
    message: "sample of sequence 0 must be 0 to its query_len 5",
  },
  "too many samples": { change: (b) => b.sample[0] = 5, message: "sample must add up to 4 at most, found 6" },
  "a temperature that is no number": { change: (b) => b.temperature[1] = NaN, message: "temperature of sequence 1" },
  "a negative top_k": { change: (b) => b.topK[0] = -1, message: "top_k of sequence 0" },
  "top_p 0": { change: (b) => b.topP[1] = 0, message: "top_p of sequence 1 must be above 0 and at most 1, found 0" },
  "a min_p that is no number": { change: (b) => b.minP[0] = NaN, message: "min_p of sequence 0" },
  "repetition_penalty 0": { change: (b) => b.repetitionPenalty[0] = 0, message: "repetition_penalty of sequence 0" },
  "an infinite presence_penalty": { change: (b) => b.presencePenalty[0] = Infinity, message: "presence_penalty" },
  "an infinite frequency_penalty": { change: (b) => b.frequencyPenalty[1] = -Infinity, message: "frequency_penalty" },
  "a negative sample_index": { change: (b) => b.sampleIndex[1] = -1, message: "sample_index of sequence 1" },
  "a sample_index that overflows": {
    change: (b) => b.sampleIndex[0] = 2 ** 31 - 1,
    message: "sample_index of sequence 0 must be at most 2147483646, found 2147483647",
  },
  "too many logprobs": { change: (b) => b.numLogprobs[0] = 5, message: "num_logprobs of sequence 0 must be -1 to 4" },
  "num_logprobs below -1": { change: (b) => b.numLogprobs[0] = -2, message: "found -2" },
  "edits that start late": { change: (b) => b.editBegin[0] = 1, message: "edit_begin must run from 0" },
  "edits that run backwards": { change: (b) => b.editBegin[2] = 0, message: "edit_begin 2 must be 1 to 2, found 0" },
  "edits past the count": { change: (b) => b.editBegin[2] = 4, message: "edit_begin 2 must be 1 to 2, found 4" },
  "edits short of the count": { change: (b) => b.editBegin[2] = 1, message: "num_logit_edits 2, found 0 to 1" },
  "an edit outside the vocabulary": { change: (b) => b.editToken[1] = 101, message: "edit_token 0 of sequence 1" },
  "a negative edit_count": { change: (b) => b.editCount[0] = -1, message: "edit_count of sequence 0" },
  "unknown edit_flags": { change: (b) => b.editFlags[0] = 4, message: "edit_flags 0 of sequence 0 must be 0 to 3" },
  "too many masks": { change: (b) => b.header[3] = 2, message: "num_token_masks of the step must be 0 to 1, found 2" },
  "new masks without saying so": {
    change: (b) => b.header[7] = 1,
    message: "the number of new masks of the step must be 0 to 0, found 1",
  },
  "a new mask past the step's": {
    change: (b) => b.header.set([1, 2], 5),
    message: "the first new mask of the step must be 0 to 1, found 2",
  },
  "too many new masks": {
    change: (b) => b.header.set([1, 1, 1], 5),
    message: "the number of new masks of the step must be 0 to 0, found 1",
  },
  "a mask that is not there": {
    change: (b) => b.maskIndex[1] = 1,
    message: "mask_index of row 1 must be -1 to 0",
  },
  "mask_index below -1": { change: (b) => b.maskIndex[0] = -2, message: "mask_index of row 0 must be -1 to 0" },
  "too many scores": { change: (b) => b.header[4] = 5, message: "num_scores of the step must be 0 to 4, found 5" },
  "a score past the step": { change: (b) => b.scoreIndex[0] = 7, message: "score_index of score 0 must be 0 to 6" },
  "a score of no token": { change: (b) => b.scoreToken[1] = 101, message: "score_token of score 1 must be 0 to 100" },
  "too many logprobs of a score": {
    change: (b) => b.scoreNumLogprobs[1] = 5,
    message: "score_num_logprobs of score 1 must be 0 to 4, found 5",
  },
  "an edit_bias that is no number": { change: (b) => b.editBias[1] = NaN, message: "edit_bias of sequence 1" },
};

for (const [name, { change, message }] of Object.entries(REFUSED)) {
  Deno.test(`octavo_step() refuses ${name} and changes nothing`, () => {
    using engine = open({ maxTokenMasks: 1, tokenMaskWords: MASK_WORDS, maxScores: 4, maxSamples: 4 });
    const { buffer } = engine;
    const first = randomTokens(20, vocabSize, 1);
    runStep(engine, [{ tokens: first, pages: [4, 5], sample: 0 }, { tokens: first, pages: [6, 7] }]);
    const rows: StepRow[] = [
      { tokens: [1, 2, 3, 4, 5], cached: 20, pages: [4, 5] },
      { tokens: [6, 7], cached: 20, pages: [6, 7] },
    ];
    const fill = () => {
      fillStep(buffer, rows);
      buffer.header[2] = 2;
      buffer.editBegin.set([0, 1, 2]);
      buffer.editToken.set([0, 1]);
      buffer.editFlags.set([0, 0]);
      buffer.editCount.fill(0);
      buffer.editBias.fill(0);
      buffer.header[3] = 1;
      buffer.maskIndex.set([0, -1]);
      buffer.tokenMasks.fill(2 ** 32 - 1);
      buffer.header[4] = 2;
      buffer.scoreIndex.set([0, 6]);
      buffer.scoreToken.set([1, 100]);
      buffer.scoreNumLogprobs.set([0, 4]);
    };
    fill();
    buffer.sampled.fill(77);
    change(buffer);
    const before = buffer.bytes.slice();
    assertThrows(() => engine.step(), Error, message);
    assertEquals(buffer.bytes, before);
    fill();
    engine.step();
    assertEquals(engine.logits(0), logitsAlone([...first, 1, 2, 3, 4, 5]));
    assertEquals(engine.logits(1), logitsAlone([...first, 6, 7]));
  });
}

Deno.test("octavo_step() refuses a buffer of another size", () => {
  assertEquals(library.symbols.octavo_step(null, new Uint8Array(8), 8), 1);
  using engine = open();
  using smaller = open({ maxNumBatchedTokens: 16 });
  fillStep(smaller.buffer, [{ tokens: [1], pages: [0] }]);
  const step = (buffer: Uint8Array<ArrayBuffer>) =>
    library.check(library.symbols.octavo_step(pointerOf(engine), buffer, buffer.length));
  assertThrows(
    () => step(smaller.buffer.bytes),
    Error,
    `the step buffer must have ${engine.buffer.bytes.length} bytes`,
  );
  assertThrows(() => step(new Uint8Array(engine.buffer.bytes.length + 1).subarray(1)), Error, "aligned to 8 bytes");
});

/** The engine's handle, which the class keeps to itself. */
function pointerOf(engine: NativeEngine): Deno.PointerObject {
  return (engine as unknown as { pointer: Deno.PointerObject }).pointer;
}

Deno.test("octavo_step() gives the same logits, bit for bit, in chunks of any size", () => {
  const prompt = randomTokens(75, vocabSize, 2);
  const whole = logitsAlone(prompt);
  for (const chunk of [1, 7, 16, 31, 74]) {
    using engine = open();
    let logits: Float32Array | undefined;
    for (let cached = 0; cached < prompt.length; cached += chunk) {
      const tokens = prompt.slice(cached, cached + chunk);
      [logits] = runStep(engine, [{ tokens, cached, pages: [3, 60, 0, 17, 5] }]);
    }
    assertEquals(logits, whole, `chunk ${chunk}`);
  }
});

Deno.test("octavo_step() gives the same logits with any threads, page size and batch-mates", () => {
  const prompts = [37, 1, 16, 50].map((length, i) => randomTokens(length, vocabSize, 10 + i));
  const alone = prompts.map((prompt) => logitsAlone(prompt, { numThreads: 1 }));
  for (const settings of [{ numThreads: 1 }, { numThreads: 7, maxNumSeqs: 4 }, { pageSize: 64 }] as const) {
    using engine = open(settings);
    const rows = prompts.map((tokens, s) => ({ tokens, pages: [0, 1, 2, 3].map((i) => 63 - s - 4 * i) }));
    assertEquals(runStep(engine, rows), alone, JSON.stringify(settings));
    assertEquals(runStep(engine, rows.toReversed()), alone.toReversed(), JSON.stringify(settings));
  }
});

Deno.test("octavo_step() mixes prefill and decode, and samples only where asked", () => {
  using engine = open();
  const long = randomTokens(60, vocabSize, 20);
  const short = randomTokens(18, vocabSize, 21);
  const pages = { long: [0, 9, 1, 8], short: [2, 7] };
  runStep(engine, [
    { tokens: short.slice(0, 17), pages: pages.short, sample: 0 },
    { tokens: long.slice(0, 30), pages: pages.long, sample: 0 },
  ]);
  assertThrows(() => engine.logits(0), Error, "the last step has 0 rows of logits, found row 0");
  const logits = runStep(
    engine,
    [
      { tokens: long.slice(30, 45), cached: 30, pages: pages.long, sample: 0 },
      { tokens: short.slice(17), cached: 17, pages: pages.short },
    ].toReversed(),
  );
  assertEquals(logits, [logitsAlone(short)]);
  assertThrows(() => engine.logits(1), Error, "the last step has 1 rows of logits, found row 1");
  assertThrows(() => engine.logits(-1), Error, "found row -1");
  assertEquals(
    runStep(engine, [{ tokens: long.slice(45), cached: 45, pages: pages.long }]),
    [logitsAlone(long)],
  );
});

Deno.test("octavo_step() samples after several tokens of a sequence as steps that end there do, bit for bit", () => {
  const settings = { maxSamples: 9, maxTokenMasks: 2, tokenMaskWords: MASK_WORDS };
  using together = open(settings);
  using oneByOne = open(settings);
  const parts = [{ sample: 4, length: 4 }, { sample: 0, length: 1 }, { sample: 5, length: 18 }];
  const sequences = parts.map(({ sample, length }, s) => ({
    prompt: randomTokens(30 + s, vocabSize, 80 + s),
    tokens: randomTokens(length, vocabSize, 90 + s),
    pages: [3 * s, 3 * s + 1, 3 * s + 2, 60 + s],
    sample,
    temperature: s,
    seed: 5,
    numLogprobs: 2,
  }));
  const masks = new Uint32Array(2 * MASK_WORDS).fill(0x55555555, 0, MASK_WORDS).fill(0xaaaaaaaa, MASK_WORDS);
  const setMasks = (buffer: StepBuffer, indices: number[]) => {
    buffer.header[3] = 2;
    buffer.tokenMasks.set(masks);
    buffer.maskIndex.set(indices);
  };
  const rowOf = (buffer: StepBuffer, engine: NativeEngine, row: number) => [
    engine.logits(row),
    buffer.sampled[row],
    buffer.sampledLogprob[row],
    buffer.topToken.slice(4 * row, 4 * row + 4),
    buffer.topLogprob.slice(4 * row, 4 * row + 4),
  ];
  const maskOf = (row: number) => row % 3 - 1;
  for (const engine of [together, oneByOne]) {
    runStep(engine, sequences.map(({ prompt, pages }) => ({ tokens: prompt, pages, sample: 0 })));
  }
  fillStep(together.buffer, sequences.map((one) => ({ ...one, cached: one.prompt.length })));
  setMasks(together.buffer, Array.from({ length: 9 }, (_, row) => maskOf(row)));
  together.buffer.sampleIndex.fill(7, 0, 3);
  together.step();
  let row = 0;
  for (const { prompt, tokens, sample, ...rest } of sequences) {
    for (let i = 0; i < tokens.length; i++) {
      const { buffer } = oneByOne;
      const index = i - (tokens.length - sample);
      fillStep(buffer, [{ ...rest, tokens: [tokens[i]!], cached: prompt.length + i }]);
      setMasks(buffer, [maskOf(row)]);
      buffer.sampleIndex[0] = 7 + Math.max(index, 0);
      oneByOne.step();
      if (index < 0) continue;
      assertEquals(rowOf(together.buffer, together, row), rowOf(buffer, oneByOne, 0), `row ${row}`);
      row++;
    }
  }
  assertEquals(row, 9);
  // The next step names tokens by row.
  const texts = [3, 8].map((row) => together.buffer.sampled[row]!);
  const logits = [-4, -9].map((token, i) => {
    const { prompt, tokens, pages } = sequences[2 * i]!;
    return { tokens: [token], cached: prompt.length + tokens.length, pages };
  });
  const next = runStep(together, logits);
  assertEquals(next, runStep(oneByOne, logits.map((one, i) => ({ ...one, tokens: [texts[i]!] }))));
});

Deno.test("octavo_step() reads prefix pages that sequences share", () => {
  using engine = open();
  const prefix = randomTokens(32, vocabSize, 30);
  runStep(engine, [{ tokens: prefix, pages: [10, 11], sample: 0 }]);
  const rows = [40, 41].map((page, s) => ({ tokens: [s, 5], cached: 32, pages: [10, 11, page] }));
  assertEquals(runStep(engine, rows), [logitsAlone([...prefix, 0, 5]), logitsAlone([...prefix, 1, 5])]);
});

Deno.test("octavo_step() samples as octavo_sample() does, whatever the batch", () => {
  using engine = open();
  const { buffer } = engine;
  const rows = [0, 1, 2, 3, 4].map((s) => ({
    tokens: randomTokens(4 + s, vocabSize, 50 + s),
    pages: [s],
    temperature: 1.5,
    seed: 900 + s,
    numLogprobs: s - 1,
  }));
  fillStep(buffer, rows);
  const edits = [
    { token: 3, count: 2, seen: true },
    { token: 99, banned: true },
    { token: 50, bias: 4, seen: true },
  ];
  buffer.header[2] = edits.length;
  buffer.editBegin.set([0, 0, 0, 3, 3, 3]);
  buffer.editToken.set([3, 99, 50]);
  buffer.editCount.set([2, 0, 0]);
  buffer.editFlags.set([1, 2, 1]);
  buffer.editBias.set([0, 0, 4]);
  buffer.repetitionPenalty[2] = 1.4;
  buffer.frequencyPenalty[2] = 0.5;
  buffer.presencePenalty[2] = 0.25;
  buffer.topK[3] = 9;
  buffer.topP[3] = 0.8;
  buffer.minP[4] = 0.1;
  buffer.sampleIndex.set([0, 5, 2, 8, 1]);
  engine.step();
  const settings = [
    {},
    {},
    { edits, repetitionPenalty: 1.4, frequencyPenalty: 0.5, presencePenalty: 0.25 },
    { topK: 9, topP: 0.8 },
    { minP: 0.1 },
  ];
  settings.forEach((own, s) => {
    const { tokens, logprobs } = sample(sampler, engine.logits(s) as Float32Array<ArrayBuffer>, {
      temperature: 1.5,
      seed: BigInt(900 + s),
      sampleIndex: buffer.sampleIndex[s]!,
      ...own,
    });
    assertEquals(buffer.sampled[s], tokens[0], `sequence ${s}`);
    assertEquals(buffer.sampledLogprob[s], s === 0 ? 0 : logprobs[0], `sequence ${s}`);
  });
});

Deno.test("octavo_step() reports the most likely tokens, best first", () => {
  using engine = open();
  const { buffer } = engine;
  const [logits] = runStep(engine, [{ tokens: [7, 8, 9], pages: [0], numLogprobs: 3 }]);
  const order = [...logits!.keys()].sort((a, b) => logits![b]! - logits![a]! || a - b);
  const logSum = Math.log(logits!.reduce((sum, logit) => sum + Math.exp(logit), 0));
  assertEquals(buffer.sampled[0], order[0]);
  assertEquals([...buffer.topToken.subarray(0, 4)], [...order.slice(0, 3), -1]);
  for (let i = 0; i < 3; i++) assertAlmostEquals(buffer.topLogprob[i]!, logits![order[i]!]! - logSum, 2e-6);
  assertEquals(buffer.topLogprob[3], 0);
});

Deno.test("octavo_step() samples as octavo_sample() does with all that a token mask leaves out banned", () => {
  using engine = open({ maxTokenMasks: 2, tokenMaskWords: MASK_WORDS, maxLogitEdits: 12 });
  const { buffer } = engine;
  const prompt = randomTokens(20, vocabSize, 40);
  const rows = [0, 1, 2].map((s) => ({
    tokens: prompt,
    pages: [2 * s, 2 * s + 1],
    temperature: 1,
    seed: 3,
    numLogprobs: 4,
  }));
  const allowed = [[5, 31, 32, vocabSize - 1], [7]];
  fillStep(buffer, rows);
  buffer.header[3] = 2;
  buffer.tokenMasks.fill(0);
  allowed.forEach((ids, m) => ids.forEach((id) => buffer.tokenMasks[m * MASK_WORDS + (id >>> 5)]! |= 1 << (id & 31)));
  buffer.maskIndex.set([0, -1, 1]);
  engine.step();
  const logits = new Float32Array(engine.logits(0));
  const banned = (ids: number[]) =>
    [...Array(vocabSize).keys()].filter((id) => !ids.includes(id)).map((token) => ({ token, banned: true }));
  const expected = [banned(allowed[0]!), [], banned(allowed[1]!)]
    .map((edits) => sample(sampler, logits, { temperature: 1, seed: 3n, edits }));
  assertEquals([...buffer.sampled.subarray(0, 3)], expected.map(({ tokens }) => tokens[0]!));
  assertEquals([...buffer.sampledLogprob.subarray(0, 3)], expected.map(({ logprobs }) => logprobs[0]!));
  assertEquals(buffer.sampled[2], 7);
  assertEquals(buffer.sampledLogprob[2], 0);
  assertEquals([...buffer.topToken.subarray(0, 4)].toSorted((a, b) => a - b), allowed[0]!);
  // A mask of nothing leaves nothing to sample; the others keep their tokens.
  fillStep(buffer, rows);
  buffer.header[3] = 2;
  buffer.tokenMasks.fill(0, MASK_WORDS);
  engine.step();
  assertEquals([...buffer.sampled.subarray(0, 3)], [...expected.slice(0, 2).map(({ tokens }) => tokens[0]!), -1]);
});

Deno.test("octavo_step() tells the log-probabilities of tokens in the midst of a prompt", () => {
  using engine = open({ maxScores: 40, maxNumSeqs: 3 });
  const { buffer } = engine;
  const prompt = randomTokens(30, vocabSize, 41);
  const other = randomTokens(9, vocabSize, 42);
  fillStep(buffer, [{ tokens: other, pages: [2] }, { tokens: prompt, pages: [0, 1], sample: 0 }]);
  const places = [0, 1, 2, 3, 5, 9, 14, 15, 16, 28];
  buffer.header[4] = places.length;
  places.forEach((place, x) => {
    buffer.scoreIndex[x] = other.length + place;
    buffer.scoreToken[x] = prompt[place + 1]!;
    buffer.scoreNumLogprobs[x] = x % 4;
  });
  engine.step();
  assertEquals(engine.logits(0), logitsAlone(other), "the sampling sequence's logits are not disturbed");
  places.forEach((place, x) => {
    const logits = logitsAlone(prompt.slice(0, place + 1));
    const max = Math.max(...logits);
    const logSum = max + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - max), 0));
    const token = prompt[place + 1]!;
    assertAlmostEquals(buffer.scoreLogprob[x]!, logits[token]! - logSum, 1e-5);
    assertEquals(buffer.scoreRank[x], 1 + logits.filter((logit) => logit > logits[token]!).length);
    const order = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]! || a - b);
    const top = [...buffer.scoreTopToken.subarray(x * 4, x * 4 + 4)];
    assertEquals(top, [...order.slice(0, x % 4), ...Array(4 - x % 4).fill(-1)]);
    for (let i = 0; i < x % 4; i++) {
      assertAlmostEquals(buffer.scoreTopLogprob[x * 4 + i]!, logits[order[i]!]! - logSum, 1e-5);
    }
  });
});

Deno.test("octavo_step() keeps KV in every dtype within its precision", () => {
  const prompt = randomTokens(40, vocabSize, 60);
  const exact = logitsAlone(prompt);
  const limits = { float16: 0.02, bfloat16: 0.1, fp8_e4m3: 0.6, fp8_e5m2: 1.2 } as const;
  for (const [kvDtype, limit] of Object.entries(limits) as [keyof typeof limits, number][]) {
    const stored = logitsAlone(prompt, { kvDtype });
    const largest = stored.reduce((most, logit, i) => Math.max(most, Math.abs(logit - exact[i]!)), 0);
    assert(largest > 0 && largest < limit, `${kvDtype}: ${largest}`);
  }
});

Deno.test("octavo_step() gives the same logits with any scales when KV is float32", () => {
  const prompt = randomTokens(40, vocabSize, 61);
  // Powers of two, so that x / scale * scale is x.
  const kvScales = Float32Array.from([2, 0.25, 8, 1, 0.5, 64, 4, 0.125]);
  assertEquals(logitsAlone(prompt, { kvScales }), logitsAlone(prompt));
});

Deno.test("octavo_step() reads no page that is not the sequence's", () => {
  const prompt = randomTokens(21, vocabSize, 70);
  using engine = open({ numPages: 5 });
  // Every slot of every page gets keys and values of another sequence.
  runStep(engine, [{ tokens: randomTokens(80, vocabSize, 71), pages: [0, 1, 2, 3, 4], sample: 0 }]);
  assertEquals(runStep(engine, [{ tokens: prompt, pages: [3, 1] }]), [logitsAlone(prompt)]);
});

Deno.test("octavo_step() gives -1 where the logits hold no number, and its batch-mates their tokens", () => {
  // Token 7 has an embedding without a number; the head is another matrix.
  const broken = makeRandomModel({ untied: true });
  const { offsetBytes, cols } = broken.tensors.find(({ role }) => role === "token_embedding")!;
  const values = new DataView(broken.bytes.buffer, offsetBytes + 7 * cols * 4);
  for (let i = 0; i < cols; i++) values.setFloat32(4 * i, NaN, true);
  using model = loadModel(library, broken);
  const mates = [[1, 2, 3], [4, 5]];
  const alone = mates.map((tokens) => {
    using engine = openEngine(model);
    return runStep(engine, [{ tokens, pages: [0] }])[0]!;
  });
  using engine = openEngine(model);
  const rows = [mates[0]!, [6, 7], mates[1]!].map((tokens, s) => ({ tokens, pages: [s], numLogprobs: 2 }));
  for (const temperature of [0, 1]) {
    const logits = runStep(engine, rows.map((row) => ({ ...row, temperature })));
    assertEquals([logits[0], logits[2]], alone);
    assertEquals(logits[1]!.every(Number.isNaN), true);
    const [first, second, third] = engine.buffer.sampled;
    assertEquals([first! >= 0, second, third! >= 0], [true, -1, true]);
    assertEquals([...engine.buffer.topToken.subarray(4, 8)], [-1, -1, -1, -1]);
  }
  // The pages that held it serve the next sequence.
  assertEquals(runStep(engine, [{ tokens: mates[0]!, pages: [1] }]), [alone[0]]);
});

/** Greedy continuations of prompts, one step after another. */
function continueGreedily(engine: NativeEngine, rows: readonly StepRow[], count: number): number[][] {
  const texts = rows.map((): number[] => []);
  for (let i = 0; i < count; i++) {
    runStep(
      engine,
      rows.map(({ tokens, pages }, s) =>
        i === 0 ? { tokens, pages } : { tokens: texts[s]!.slice(-1), cached: tokens.length + i - 1, pages }
      ),
    );
    texts.forEach((text, s) => text.push(engine.buffer.sampled[s]!));
  }
  return texts;
}

Deno.test("octavo_step_submit() takes tokens that the host has not read yet", () => {
  const rows = [5, 17, 1].map((length, s) => ({
    tokens: randomTokens(length, vocabSize, 80 + s),
    pages: [2 * s, 40 + s],
  }));
  using alone = open();
  const expected = continueGreedily(alone, rows, 12);
  using engine = open();
  const texts = rows.map((): number[] => []);
  // Rows change places with every step: row s holds sequence order[s], whose token the step before sampled in row r.
  let order = [0, 1, 2];
  const submit = (step: number) => {
    const before = order;
    order = step === 0 ? order : [order[1]!, order[2]!, order[0]!];
    fillStep(
      engine.buffers[step % 2]!,
      order.map((sequence) => {
        const { tokens, pages } = rows[sequence]!;
        if (step === 0) return { tokens, pages };
        return { tokens: [-(before.indexOf(sequence) + 1)], cached: tokens.length + step - 1, pages };
      }),
    );
    engine.submit(engine.buffers[step % 2]!);
    return order;
  };
  let running = submit(0);
  for (let step = 1; step <= 12; step++) {
    const next = step < 12 ? submit(step) : [];
    const buffer = engine.buffers[(step - 1) % 2]!;
    engine.finish(buffer);
    running.forEach((sequence, s) => texts[sequence]!.push(buffer.sampled[s]!));
    running = next;
  }
  assertEquals(texts, expected);
});

Deno.test("octavo_step_submit() and octavo_step_finish() keep two steps in their order", () => {
  using engine = open();
  const [first, second] = engine.buffers;
  const fill = (buffer: StepBuffer, page: number) => fillStep(buffer, [{ tokens: [1, 2], pages: [page] }]);
  assertThrows(() => engine.finish(first), Error, "no step is under way");
  fill(first, 0);
  fill(second, 1);
  engine.submit(first);
  assertThrows(() => engine.submit(first), Error, "already under way");
  assertThrows(() => engine.step(), Error, "octavo_step needs all steps to be finished, found 1 under way");
  engine.submit(second);
  const third = new Uint8Array(first.bytes.length);
  const { octavo_step_submit } = library.symbols;
  assertThrows(
    () => library.check(octavo_step_submit(pointerOf(engine), third, third.length)),
    Error,
    "at most 2 steps can be under way",
  );
  assertThrows(() => engine.finish(second), Error, "the oldest step under way has the step buffer");
  engine.finish(first);
  engine.finish(second);
  assertThrows(() => engine.finish(second), Error, "no step is under way");
  assertEquals(second.sampled[0], first.sampled[0]);
});

Deno.test("octavo_step_submit() that fails leaves the sampled tokens of the step before", () => {
  const rows = [{ tokens: [4, 5, 6], pages: [0] }];
  using alone = open();
  const [text] = continueGreedily(alone, rows, 2);
  using engine = open();
  runStep(engine, rows);
  const next = { tokens: [-1], cached: 3, pages: [0] };
  assertThrows(() => runStep(engine, [{ ...next, pages: [64] }]), Error, "page 0 of sequence 0");
  runStep(engine, [next]);
  assertEquals(engine.buffer.sampled[0], text![1]);
});
