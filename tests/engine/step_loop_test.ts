import { assertEquals, assertGreater, assertThrows } from "@std/assert";
import { EngineError } from "../../engine/errors.ts";
import { BOS, EOS, expectedOutput, greedy, PIECES, TABLE } from "./_fake_model.ts";
import { Harness } from "./_harness.ts";

const ROOMY = { maxNumSeqs: 8, maxNumBatchedTokens: 16, pageSize: 4, numPages: 64 };
const PROMPT = [BOS, 5, 9, 3, 12];
/** Generates until the length limit. */
const LONG = greedy({ maxTokens: 12, ignoreEos: true });

Deno.test("StepLoop gives a request its tokens, its text and one end", () => {
  const harness = new Harness(ROOMY);
  const key = harness.submit(PROMPT, LONG);
  harness.finish();
  const expected = expectedOutput(PROMPT, LONG);
  const { sequences, usage, numTerminals } = harness.transcripts.get(key)!;
  const bytes = expected.flatMap((id) => TABLE.flags[id] === 1 ? [] : [...TABLE.bytes.slice(...range(id))]);
  assertEquals(sequences[0], {
    text: new TextDecoder().decode(Uint8Array.from(bytes)),
    tokenIds: expected,
    finishReason: "length",
    stopReason: null,
  });
  assertEquals(usage, { promptTokens: 5, completionTokens: 12, cachedTokens: 0 });
  assertEquals(numTerminals, 1);
});

function range(id: number): [number, number] {
  return [TABLE.offsets[id]!, TABLE.offsets[id + 1]!];
}

Deno.test("StepLoop gives the same tokens alone, in company, in chunks and preempted", () => {
  const company = [[4], [7, 7, 7, 7, 7, 7, 7], Array.from({ length: 30 }, (_, i) => 2 + i), PROMPT];
  const engines = {
    alone: ROOMY,
    chunks: { ...ROOMY, maxNumSeqs: 2, maxNumBatchedTokens: 2 },
    preempted: { ...ROOMY, numPages: 11 },
    "one page a token": { ...ROOMY, pageSize: 1, numPages: 45 },
  };
  for (const [name, config] of Object.entries(engines)) {
    const harness = new Harness(config);
    const keys = name === "alone"
      ? [harness.submit(PROMPT, LONG)]
      : company.map((prompt) => harness.submit(prompt, LONG));
    harness.finish();
    assertEquals(harness.tokens(keys.at(-1)!)[0], expectedOutput(PROMPT, LONG), name);
    if (name === "preempted") assertGreater(harness.counters.get("preemptionsTotal"), 0);
  }
});

Deno.test("StepLoop continues a preempted sequence's random numbers and repeats no output", () => {
  const harness = new Harness({ ...ROOMY, numPages: 6 });
  const sampling = { ...LONG, temperature: 1, seed: 99n };
  const keys = [harness.submit(PROMPT, sampling), harness.submit([8, 8], sampling)];
  harness.finish();
  assertGreater(harness.counters.get("preemptionsTotal"), 0);
  assertEquals(harness.tokens(keys[0]!)[0], expectedOutput(PROMPT, sampling));
  assertEquals(harness.tokens(keys[1]!)[0], expectedOutput([8, 8], sampling));
});

Deno.test("StepLoop makes n sequences with seeds of their own", () => {
  const harness = new Harness(ROOMY);
  const sampling = { ...LONG, n: 3, temperature: 1, seed: 2n ** 64n - 1n };
  const key = harness.submit(PROMPT, sampling);
  harness.finish();
  const tokens = harness.tokens(key);
  assertEquals(tokens, [0, 1, 2].map((index) => expectedOutput(PROMPT, sampling, index)));
  assertEquals(new Set(tokens.map(String)).size, 3);
  assertEquals(harness.transcripts.get(key)!.usage, { promptTokens: 5, completionTokens: 36, cachedTokens: 0 });
});

Deno.test("StepLoop runs more sequences than one step holds in turns", () => {
  const harness = new Harness({ ...ROOMY, maxNumSeqs: 2 });
  const key = harness.submit(PROMPT, { ...LONG, n: 5, temperature: 1 });
  harness.step();
  assertEquals(harness.counters.get("numRequestsRunning"), 1);
  harness.finish();
  assertEquals(harness.tokens(key).map((tokens) => tokens.length), [12, 12, 12, 12, 12]);
});

Deno.test("StepLoop lets requests join and leave at every step", () => {
  const harness = new Harness(ROOMY);
  harness.submit([3], { ...LONG, maxTokens: 3 });
  harness.step();
  assertEquals(harness.runner.queryLens, [1]);
  harness.submit([4, 4], { ...LONG, maxTokens: 1 });
  harness.step();
  assertEquals(harness.runner.queryLens, [1, 2]);
  harness.step();
  assertEquals(harness.runner.queryLens, [1]);
  assertEquals(harness.loop.isIdle, true);
});

Deno.test("StepLoop gives log-probabilities when they are asked for", () => {
  const harness = new Harness(ROOMY);
  const key = harness.submit(PROMPT, { ...LONG, maxTokens: 2, logprobs: 2 });
  const more = harness.submit(PROMPT, { ...LONG, maxTokens: 2, logprobs: 4 });
  harness.finish();
  const [token = 0] = expectedOutput(PROMPT, LONG);
  assertEquals(harness.transcripts.get(key)!.deltas[0]!.logprobs, [{
    tokenId: token,
    logprob: -token - 1,
    top: [{ tokenId: token, logprob: -token - 1 }, { tokenId: (token + 1) % PIECES.length, logprob: -token - 2 }],
  }]);
  // The model has only three to give.
  assertEquals(harness.transcripts.get(more)!.deltas[0]!.logprobs![0]!.top.length, 3);
});

Deno.test("StepLoop bans stop ids until minTokens", () => {
  // A prompt whose third token is EOS unless it is banned.
  const prompt = Array.from({ length: 40 ** 3 }, (_, i) => [2 + i % 38, 2 + Math.floor(i / 38) % 38, 2 + i % 7])
    .find((prompt) => expectedOutput(prompt, greedy())[2] === EOS)!;
  const sampling = greedy({ minTokens: 3 });
  const harness = new Harness(ROOMY);
  const key = harness.submit(prompt, sampling);
  harness.finish();
  assertEquals(expectedOutput(prompt, greedy()).length, 3);
  assertGreater(harness.tokens(key)[0]!.length, 3);
  assertEquals(harness.tokens(key)[0], expectedOutput(prompt, sampling));
});

Deno.test("StepLoop bans a bad word's last token where it would complete one, and nowhere else", () => {
  const free = expectedOutput(PROMPT, LONG);
  const [a, b, c, d] = free as [number, number, number, number];
  for (const badWords of [[[a]], [[a, b]], [[a, b, c]], [[b, c], [a, b, d], [c]], [[a, c]], [[a, b, c], [b, c, d]]]) {
    const sampling = { ...LONG, badWords, minTokens: 2 };
    const harness = new Harness(ROOMY);
    const key = harness.submit(PROMPT, sampling);
    harness.finish();
    const tokens = harness.tokens(key)[0]!;
    assertEquals(tokens, expectedOutput(PROMPT, sampling));
    const text = `,${tokens.join()},`;
    for (const word of badWords) assertEquals(text.includes(`,${word.join()},`), false, `${word} in ${text}`);
    const changes = badWords.some((word) => `,${free.join()},`.includes(`,${word.join()},`));
    assertEquals(tokens.join() !== free.join(), changes);
  }
});

Deno.test("StepLoop samples nothing but allowed_token_ids, also for batch-mates and after aborts", () => {
  for (const looksAhead of [false, true]) sampleAllowed(looksAhead);
});

function sampleAllowed(looksAhead: boolean): void {
  const harness = new Harness(ROOMY, { looksAhead });
  const allowed = [[2, 3, 39], null, [5, 6, 7, 32], [31], null];
  const keys = allowed.map((allowedTokenIds) =>
    harness.submit(PROMPT, { ...LONG, n: 2, temperature: 1, allowedTokenIds })
  );
  for (let i = 0; i < 4; i++) harness.step();
  harness.abort(keys[0]!);
  harness.finish();
  for (const [i, key] of keys.entries()) {
    const sampling = { ...LONG, n: 2, temperature: 1, allowedTokenIds: allowed[i]! };
    harness.tokens(key).forEach((tokens, index) => {
      assertEquals(tokens, expectedOutput(PROMPT, sampling, index).slice(0, tokens.length));
      if (i > 0) assertGreater(tokens.length, 4);
    });
  }
  // Three masks of 40 bits: each goes to the device once, however many steps it is used in.
  assertEquals(harness.runner.numMaskBytes, 3 * 8);
}

// After vllm#10087, pegainfer#215: an aborted request's pages are free before the next step.
for (const [state, steps] of [["waiting", 0], ["prefilling", 1], ["decoding", 5]] as const) {
  Deno.test(`StepLoop.abort() frees a request's pages at once when it is ${state}`, () => {
    const harness = new Harness({ ...ROOMY, maxNumBatchedTokens: 8 });
    const key = harness.submit(Array.from({ length: 20 }, (_, i) => i + 2), { ...LONG, n: 2 });
    for (let i = 0; i < steps; i++) harness.step();
    assertEquals(harness.loop.numFreePages < ROOMY.numPages, steps > 0);
    harness.abort(key);
    assertEquals(harness.loop.numFreePages, ROOMY.numPages);
    assertEquals(harness.loop.isIdle, true);
    const { sequences, usage } = harness.transcripts.get(key)!;
    assertEquals(sequences.map((sequence) => sequence.finishReason), ["abort", "abort"]);
    assertEquals(usage!.completionTokens, sequences.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0));
    harness.step();
    assertEquals(harness.runner.numSteps, steps);
  });
}

// After sglang#36475: an abort that comes late, or twice, frees nothing twice.
Deno.test("StepLoop.abort() does nothing when the request has ended", () => {
  const harness = new Harness(ROOMY);
  const ended = harness.submit(PROMPT, { ...LONG, maxTokens: 1 });
  const live = harness.submit([6], LONG);
  harness.step();
  for (const key of [ended, ended, 1000]) harness.abort(key);
  harness.abort(live);
  harness.abort(live);
  harness.finish();
  assertEquals(harness.counters.finishedTotal(), { stop: 0, length: 1, abort: 1, deadline: 0, error: 0 });
});

// After vllm#27194: one request's fault costs that request.
Deno.test("StepLoop fails only the request for which the model gives no valid token", () => {
  const harness = new Harness(ROOMY);
  const bad = harness.submit(PROMPT, { ...LONG, n: 2 });
  const good = harness.submit([6], LONG);
  const { step } = harness.runner;
  harness.runner.step = () => {
    step.call(harness.runner);
    if (harness.runner.numSteps === 3) harness.runner.buffer.sampled[0] = -1;
  };
  harness.finish();
  assertEquals(
    harness.transcripts.get(bad)!.error,
    "The model gave no valid token for request request-0, received -1: its logits hold no number",
  );
  assertEquals(harness.transcripts.get(bad)!.usage, null);
  assertEquals(harness.tokens(good)[0], expectedOutput([6], LONG));
});

Deno.test("StepLoop.fail() ends every request with an error", () => {
  const harness = new Harness({ ...ROOMY, maxNumSeqs: 1 });
  const keys = [harness.submit(PROMPT, LONG), harness.submit([6], LONG)];
  harness.step();
  harness.runner.onStep = () => {
    throw new Error("device lost");
  };
  assertThrows(() => harness.step(), Error, "device lost");
  harness.loop.fail("The engine failed: device lost");
  harness.collect();
  for (const key of keys) {
    assertEquals(harness.transcripts.get(key)!.error, "The engine failed: device lost");
    assertEquals(harness.transcripts.get(key)!.numTerminals, 1);
  }
  assertEquals(harness.counters.finishedTotal().error, 2);
  assertEquals(harness.counters.get("numPagesOwned"), 0);
});

// After mini-sglang, where a request that never fits is dropped and its client waits for ever.
Deno.test("StepLoop.step() says so when a waiting request can never be scheduled", () => {
  const harness = new Harness({ ...ROOMY, numPages: 2 });
  harness.submit([...PROMPT, ...PROMPT], LONG);
  assertThrows(() => harness.step(), EngineError, "1 requests wait and 2 of 2 pages are free");
});

Deno.test("StepLoop needs a token budget for every decode", () => {
  assertThrows(() => new Harness({ ...ROOMY, maxNumBatchedTokens: 7 }), RangeError, "max_num_seqs = 8, received 7");
});

Deno.test("StepLoop counts what it does", () => {
  const harness = new Harness(ROOMY);
  harness.submit(PROMPT, { ...LONG, n: 2 });
  harness.step();
  const { counters } = harness;
  assertEquals([counters.get("numRequestsRunning"), counters.get("numPagesOwned")], [1, 2]);
  harness.finish();
  assertEquals([counters.get("numRequestsRunning"), counters.get("numPagesOwned")], [0, 0]);
  assertEquals([counters.get("promptTokensTotal"), counters.get("generationTokensTotal")], [5, 24]);
  assertEquals(counters.get("stepsTotal"), harness.runner.numSteps);
  assertGreater(counters.get("lastStepTimeMs"), 0);
});

// After vllm#44175: lists that grow with every request ever served.
Deno.test("StepLoop serves many requests one after another and keeps nothing of them", () => {
  const harness = new Harness(ROOMY);
  const { loop } = harness;
  const sampling = greedy({ maxTokens: 1 });
  let numEnded = 0;
  for (let key = 0; key < 20_000; key++) {
    loop.submit({
      key,
      id: String(key),
      prompt: Int32Array.of(2 + key % 30),
      sampling,
      priority: 0,
      cacheSalt: "",
    });
    loop.step();
    numEnded += loop.takeOutcomes().filter((outcome) => outcome.usage !== null).length;
  }
  assertEquals([numEnded, loop.isIdle, loop.numFreePages], [20_000, true, ROOMY.numPages]);
});
