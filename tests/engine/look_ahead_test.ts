import { assertEquals, assertGreater } from "@std/assert";
import { Counters } from "../../engine/counters.ts";
import { KvComparer } from "../../engine/kv_comparer.ts";
import { MailboxReceiver, MailboxSender } from "../../engine/mailbox.ts";
import type { EngineMessage } from "../../engine/messages.ts";
import { StepLoop } from "../../engine/step_loop.ts";
import { runWorkerLoop } from "../../engine/worker_loop.ts";
import { STATUS } from "../../ffi/enums.ts";
import { Library, NativeError } from "../../ffi/library.ts";
import { libraryPath } from "../native/_library.ts";
import { loadModel, makeRandomModel, openEngine } from "../native/_random_model.ts";
import { expectedOutput, greedy, tokenTable, VOCAB_SIZE } from "./_fake_model.ts";
import { Harness } from "./_harness.ts";

const ROOMY = { maxNumSeqs: 8, maxNumBatchedTokens: 16, pageSize: 4, numPages: 64 };
const LONG = greedy({ maxTokens: 12, ignoreEos: true });

/** A harness that writes down each submit (s) and finish (f). */
function traced(config = ROOMY): { harness: Harness; trace: string[] } {
  const harness = new Harness(config, { looksAhead: true });
  const trace: string[] = [];
  const { runner } = harness;
  const [submit, finish] = [runner.submit.bind(runner), runner.finish.bind(runner)];
  runner.submit = (buffer) => (trace.push("s"), submit(buffer));
  runner.finish = (buffer) => (trace.push("f"), finish(buffer));
  return { harness, trace };
}

Deno.test("StepLoop with look-ahead submits each step before it reads the one before", () => {
  const { harness, trace } = traced();
  const key = harness.submit([5, 6, 7], LONG);
  harness.finish();
  assertEquals(harness.tokens(key)[0], expectedOutput([5, 6, 7], LONG));
  // 12 tokens in 12 steps: the end by length is known beforehand, so no row is wasted.
  assertEquals(trace.join(""), `s${"sf".repeat(11)}f`);
});

Deno.test("StepLoop with look-ahead drops the row that a stop makes useless and keeps its pages until it is done", () => {
  const { harness, trace } = traced();
  const [, , third = 0] = expectedOutput([5, 6, 7], LONG);
  const key = harness.submit([5, 6, 7], { ...LONG, stopTokenIds: [third] });
  harness.finish();
  assertEquals(harness.tokens(key)[0]!.at(-1), third);
  assertEquals(harness.transcripts.get(key)!.usage!.completionTokens, harness.tokens(key)[0]!.length);
  assertEquals(trace.filter((event) => event === "s").length, harness.tokens(key)[0]!.length + 1);
});

Deno.test("StepLoop with look-ahead reads each token first when logit edits depend on it", () => {
  for (const options of [{ presencePenalty: 1 }, { repetitionPenalty: 1.5 }, { badWords: [[6, 7]] }]) {
    const { harness, trace } = traced();
    const sampling = { ...LONG, ...options };
    const key = harness.submit([5, 6, 7], sampling);
    harness.finish();
    assertEquals(trace.join("").includes("ss"), false);
    assertEquals(harness.tokens(key)[0], expectedOutput([5, 6, 7], sampling));
  }
});

Deno.test("StepLoop with look-ahead submits a step that had to wait for tokens before it hands them out", () => {
  const { harness, trace } = traced();
  const sampling = { ...LONG, presencePenalty: 1 };
  const key = harness.submit([5, 6, 7], sampling);
  harness.step();
  assertEquals([trace.join(""), harness.tokens(key)], ["s", [[]]]);
  harness.step();
  assertEquals([trace.join(""), harness.tokens(key)], ["sfs", [expectedOutput([5, 6, 7], sampling).slice(0, 1)]]);
  harness.finish();
  assertEquals(trace.join(""), "sf".repeat(12));
});

Deno.test("StepLoop with look-ahead bans stop ids by the number of tokens, which it need not read", () => {
  const sampling = { ...LONG, minTokens: 5, stopTokenIds: Array.from({ length: VOCAB_SIZE - 4 }, (_, id) => id) };
  const { harness, trace } = traced();
  const key = harness.submit([5, 6, 7], sampling);
  harness.finish();
  const [tokens] = harness.tokens(key);
  assertEquals(tokens, expectedOutput([5, 6, 7], sampling));
  assertEquals(tokens!.slice(0, 5).every((id) => id >= VOCAB_SIZE - 4), true);
  assertEquals(trace.slice(0, 9).join(""), "ssfsfsfsf");
});

Deno.test("StepLoop with look-ahead does not wait for a prompt whose penalties have counted nothing yet", () => {
  const { harness, trace } = traced();
  const key = harness.submit([5, 6, 7], LONG);
  harness.step();
  harness.submit(Array.from({ length: 60 }, (_, i) => 2 + i % 30), { ...LONG, maxTokens: 1, presencePenalty: 1 });
  harness.finish();
  assertEquals(harness.tokens(key)[0], expectedOutput([5, 6, 7], LONG));
  assertEquals(trace.join(""), `s${"sf".repeat(11)}f`);
});

Deno.test("StepLoop.abort() with look-ahead frees pages after the step that reads them", () => {
  const { harness } = traced();
  const key = harness.submit([5, 6, 7], LONG);
  for (let i = 0; i < 3; i++) harness.step();
  harness.abort(key);
  assertEquals(harness.transcripts.get(key)!.numTerminals, 1);
  assertGreater(harness.config.numPages, harness.loop.numFreePages);
  assertEquals(harness.loop.isIdle, false);
  harness.step();
  assertEquals([harness.loop.isIdle, harness.loop.numFreePages], [true, harness.config.numPages]);
  assertEquals(harness.warnings, []);
});

Deno.test("StepLoop with look-ahead preempts only when no step is under way", () => {
  const { harness } = traced({ ...ROOMY, numPages: 11 });
  const prompts = [[4], [7, 7, 7, 7, 7, 7, 7], Array.from({ length: 30 }, (_, i) => 2 + i), [5, 6, 7]];
  const keys = prompts.map((prompt) => harness.submit(prompt, LONG));
  harness.finish();
  assertGreater(harness.counters.get("preemptionsTotal"), 0);
  keys.forEach((key, i) => assertEquals(harness.tokens(key)[0], expectedOutput(prompts[i]!, LONG)));
});

const library = new Library(libraryPath());
const model = makeRandomModel({ roles: ["q_norm", "k_norm"] });
const native = loadModel(library, model);

/** All tokens of some requests, by key; requests come one a step. */
function tokensOf(options: { looksAhead: boolean; kvFingerprint: string | null; numPages: number }): number[][] {
  using engine = openEngine(native, {
    numPages: options.numPages,
    maxNumSeqs: 4,
    maxNumBatchedTokens: 8,
    maxLogitEdits: 200,
  });
  const { vocabSize } = model.config;
  const loop = new StepLoop(engine, {
    ...options,
    pageSize: 16,
    vocabSize,
    tokenTable: tokenTable(Array.from({ length: vocabSize }, (_, id) => `${id} `)),
    eosTokenIds: [],
    counters: new Counters(),
    warn: (message) => {
      throw new Error(message);
    },
  });
  const received: number[][] = [];
  const collect = () => {
    loop.step();
    for (const { key, deltas, error } of loop.takeOutcomes()) {
      assertEquals(error, null);
      for (const delta of deltas) received[key]!.push(...delta.tokenIds);
    }
  };
  for (let key = 0; key < 10; key++) {
    received.push([]);
    const prompt = Int32Array.from(
      { length: 10 + 7 * (key % 5) },
      (_, i) => (3 + 5 * i + (i > 20 ? key : 0)) % vocabSize,
    );
    const sampling = greedy({
      maxTokens: 10 + key,
      temperature: key % 3 === 0 ? 1 : 0,
      seed: key,
      presencePenalty: key === 7 ? 1 : 0,
      stopTokenIds: [11],
    });
    loop.submit({ key, id: `${key}`, prompt, sampling, priority: 0, cacheSalt: "" });
    collect();
  }
  while (!loop.isIdle) collect();
  assertEquals(loop.numFreePages, options.numPages);
  return received;
}

Deno.test("StepLoop gives the native library's tokens with and without look-ahead, prefix caching and preemption", () => {
  const expected = tokensOf({ looksAhead: false, kvFingerprint: null, numPages: 64 });
  assertGreater(expected.flat().length, 80);
  for (const kvFingerprint of [null, "f"]) {
    for (const looksAhead of [false, true]) {
      for (const numPages of [64, 6]) {
        assertEquals(tokensOf({ looksAhead, kvFingerprint, numPages }), expected);
      }
    }
  }
});

Deno.test("runWorkerLoop() gives a comparison its turn beside a step under way, and goes on after it", () => {
  const { harness, trace } = traced();
  const mailbox = new MailboxSender<EngineMessage>();
  const turns: string[] = [];
  const comparer = new KvComparer({
    eosTokenIds: [],
    open: () => {
      turns.push(trace.join(""));
      throw new NativeError("no pages", STATUS.OUT_OF_MEMORY);
    },
  });
  harness.submit([5, 6, 7], LONG);
  harness.loop.step();
  const variant = { name: "int8", dtype: "int8", scales: null, kMean: null } as const;
  mailbox.post({ type: "compare", key: 9, variants: [variant, variant], prompt: Int32Array.of(1), maxTokens: 1 });
  const posted: string[] = [];
  const receiver = new MailboxReceiver<EngineMessage>(mailbox.receivingEnd);
  runWorkerLoop(harness.loop, receiver, ({ type }) => posted.push(type), {
    comparer,
    afterStep: (isIdle) => isIdle && mailbox.post({ type: "close" }),
  });
  receiver.close();
  mailbox.close();
  assertEquals(turns, ["ssf"]);
  assertEquals(trace.join(""), `s${"sf".repeat(11)}f`);
  assertEquals(posted.filter((type) => type !== "outcomes"), ["compared"]);
  assertEquals(harness.counters.get("generationTokensTotal"), 12);
  assertEquals(harness.counters.get("numRequestsRunning"), 0);
});
