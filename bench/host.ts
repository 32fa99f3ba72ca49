/**
 * `deno run -A bench/host.ts`: what scheduling costs the engine's thread, with no model: microseconds a step of 256 running
 * sequences while 10,000 wait, and the memory that requests leave behind.
 *
 *     deno run -A bench/host.ts [--running 256] [--waiting 10000] [--steps 2000] [--requests 1000000]
 *
 * The step itself is a stub that samples the same token for every row. Printed as JSON.
 *
 * @module
 */

import { parseArgs } from "@std/cli";
import { Counters } from "../engine/counters.ts";
import type { StepBufferViews, StepRunner } from "../engine/native.ts";
import { samplingParams } from "../engine/sampling_params.ts";
import { StepLoop } from "../engine/step_loop.ts";
import { newStepBuffer } from "../tests/engine/_fake_model.ts";

const PAGE_SIZE = 16;
const TOKEN = 5;
const VOCAB_SIZE = 16;
const MAX_PAGES_PER_SEQ = 256;

const flags = parseArgs(Deno.args, { string: ["running", "waiting", "steps", "requests"] });
const running = Number(flags["running"] ?? 256);
const waiting = Number(flags["waiting"] ?? 10_000);
const steps = Number(flags["steps"] ?? 2000);
const requests = Number(flags["requests"] ?? 1_000_000);

function stubBuffer(maxNumSeqs: number, maxNumBatchedTokens: number): StepBufferViews {
  const buffer = newStepBuffer({
    maxNumSeqs,
    maxNumBatchedTokens,
    pageSize: PAGE_SIZE,
    numPages: MAX_PAGES_PER_SEQ,
    maxLogitEdits: 1024,
  });
  buffer.sampled.fill(TOKEN);
  return buffer;
}

/** A loop on the stub. `submit` queues a request of a prompt that begins with its key. */
function stubLoop(looksAhead: boolean) {
  const runner: StepRunner = {
    buffers: [stubBuffer(running, 2048), stubBuffer(running, 2048)],
    submit: () => {},
    finish: () => {},
  };
  const text = new TextEncoder().encode("abcdefghijklmnop");
  const tokenTable = {
    bytes: new Uint8Array(new SharedArrayBuffer(VOCAB_SIZE)),
    offsets: new Int32Array(new SharedArrayBuffer(4 * (VOCAB_SIZE + 1))),
    flags: new Uint8Array(new SharedArrayBuffer(VOCAB_SIZE)),
    stripFirstSpace: false,
  };
  tokenTable.bytes.set(text);
  for (let i = 0; i <= VOCAB_SIZE; i++) tokenTable.offsets[i] = i;
  const loop = new StepLoop(runner, {
    pageSize: PAGE_SIZE,
    numPages: running * MAX_PAGES_PER_SEQ,
    vocabSize: VOCAB_SIZE,
    tokenTable,
    eosTokenIds: [],
    counters: new Counters(),
    kvFingerprint: "stub",
    looksAhead,
    warn: (message) => {
      throw new Error(message);
    },
  });
  const submit = (key: number, promptTokens: number, maxTokens: number) => {
    const prompt = Int32Array.from({ length: promptTokens }, (_, i) => (key >> (i % 20)) & 15);
    const sampling = samplingParams({ maxTokens, temperature: 0, seed: 0 });
    loop.submit({ key, id: `${key}`, prompt, sampling, priority: 0, cacheSalt: "" });
  };
  return { loop, submit };
}

/** Microseconds of each step: scheduling, writing the step buffer, text and outcomes. */
function stepCost(looksAhead: boolean): { medianUs: number; p99Us: number } {
  const { loop, submit } = stubLoop(looksAhead);
  for (let key = 0; key < running + waiting; key++) submit(key, 100, steps + 1000);
  for (let i = 0; i < 200; i++) loop.step();
  loop.takeOutcomes();
  const times = Array.from({ length: steps }, () => {
    const begin = performance.now();
    loop.step();
    loop.takeOutcomes();
    return (performance.now() - begin) * 1000;
  }).sort((a, b) => a - b);
  return { medianUs: Math.round(times[steps >> 1]!), p99Us: Math.round(times[Math.floor(steps * 0.99)]!) };
}

/** Heap bytes after a tenth of the requests and after all of them, one token each. */
function memoryOf(numRequests: number): { heapAtTenth: number; heapAtEnd: number; freePages: number } {
  const { loop, submit } = stubLoop(true);
  let heapAtTenth = 0;
  for (let key = 0; key < numRequests; key++) {
    submit(key, 20, 1);
    if (key % 64 === 63 || key === numRequests - 1) {
      while (!loop.isIdle) loop.step();
      loop.takeOutcomes();
    }
    if (key === Math.floor(numRequests / 10)) heapAtTenth = Deno.memoryUsage().heapUsed;
  }
  return { heapAtTenth, heapAtEnd: Deno.memoryUsage().heapUsed, freePages: loop.numFreePages };
}

console.log(JSON.stringify(
  {
    running,
    waiting,
    step: stepCost(false),
    stepWithLookAhead: stepCost(true),
    requests,
    memory: memoryOf(requests),
    pages: running * MAX_PAGES_PER_SEQ,
  },
  null,
  1,
));
