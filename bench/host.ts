/**
 * What the host costs beside the model. Printed as JSON:
 *  - schedule: microseconds of the scheduler alone for a step of 256 running sequences while 10,000 wait; step: of all that
 *    the engine's thread does for a step (schedule, step buffer, text, outcomes)
 *  - sse: tokens that 256 streaming clients receive over HTTP from a device of 2 ms a step, as a share of the ideal
 *  - memory: what a million requests leave behind (with `--expose-gc`, after a collection at each tenth of them)
 *
 *     deno run -A --v8-flags=--expose-gc bench/host.ts [--only step,sse,memory] [--running 256] [--waiting 10000]
 *         [--steps 2000] [--requests 1000000] [--step-ms 2] [--seconds 4] [--processes 1]
 *
 * The model is a stub. Needs three idle cores for what it says of `sse`: the engine's thread, the HTTP thread, clients.
 *
 * @module
 */

import { parseArgs } from "@std/cli";
import { samplingParams } from "../engine/sampling_params.ts";
import { Scheduler } from "../engine/scheduler.ts";
import type { StepLoop } from "../engine/step_loop.ts";
import { percentile, round } from "./_cells.ts";
import { sseRate } from "./_sse_host.ts";
import { PAGES_PER_SEQ, stubLoop } from "./_stub_loop.ts";

const flags = parseArgs(Deno.args, {
  string: ["only", "running", "waiting", "steps", "requests", "step-ms", "seconds", "processes"],
});
const running = Number(flags["running"] ?? 256);
const waiting = Number(flags["waiting"] ?? 10_000);
const steps = Number(flags["steps"] ?? 2000);
const requests = Number(flags["requests"] ?? 1_000_000);
const parts = (flags.only ?? "step,sse,memory").split(",");

/** Queues a request of a prompt that begins with its key. */
function submit(loop: StepLoop, key: number, promptTokens: number, maxTokens: number): void {
  const prompt = Int32Array.from({ length: promptTokens }, (_, i) => (key >> (i % 20)) & 15);
  const sampling = samplingParams({ maxTokens, temperature: 0, seed: 0 });
  loop.submit({ key, id: `${key}`, prompt, sampling, priority: 0, cacheSalt: "" });
}

/** Microseconds of each step and, of it, of the scheduler. */
function stepCost(looksAhead: boolean) {
  const loop = stubLoop({ maxNumSeqs: running, looksAhead, stepMs: 0 });
  for (let key = 0; key < running + waiting; key++) submit(loop, key, 100, steps + 1000);
  for (let i = 0; i < 200; i++) loop.step();
  loop.takeOutcomes();
  const scheduleUs: number[] = [];
  const { schedule } = Scheduler.prototype;
  Scheduler.prototype.schedule = function () {
    const begin = performance.now();
    const batch = schedule.call(this);
    scheduleUs.push((performance.now() - begin) * 1000);
    return batch;
  };
  const stepUs = Array.from({ length: steps }, () => {
    const begin = performance.now();
    loop.step();
    loop.takeOutcomes();
    return (performance.now() - begin) * 1000;
  });
  Scheduler.prototype.schedule = schedule;
  return { scheduleUs: summary(scheduleUs), stepUs: summary(stepUs) };
}

function summary(values: readonly number[]): { median: number; p99: number } {
  return { median: round(percentile(values, 0.5), 1), p99: round(percentile(values, 0.99), 1) };
}

/** Bytes in use after each tenth of the requests, one token each. */
function memoryOf(numRequests: number) {
  const loop = stubLoop({ maxNumSeqs: running, looksAhead: true, stepMs: 0 });
  const bytes: { heap: number; rss: number }[] = [];
  for (let key = 0; key < numRequests; key++) {
    submit(loop, key, 20, 1);
    if (key % 64 === 63 || key === numRequests - 1) {
      while (!loop.isIdle) loop.step();
      loop.takeOutcomes();
    }
    if ((key + 1) % Math.ceil(numRequests / 10) === 0) bytes.push(bytesInUse());
  }
  const pages = running * PAGES_PER_SEQ;
  return { requests: numRequests, bytes, freePages: loop.numFreePages, pages };
}

/** After a collection, where V8 lets us ask for one. */
function bytesInUse(): { heap: number; rss: number } {
  (globalThis as { gc?: () => void }).gc?.();
  const { heapUsed: heap, rss } = Deno.memoryUsage();
  return { heap, rss };
}

const result: Record<string, unknown> = { running, waiting };
if (parts.includes("step")) Object.assign(result, { step: stepCost(false), stepWithLookAhead: stepCost(true) });
if (parts.includes("sse")) {
  const [stepMs, seconds, processes] = [flags["step-ms"] ?? 2, flags.seconds ?? 4, flags.processes ?? 1].map(Number);
  result["sse"] = await sseRate({ streams: running, stepMs: stepMs!, seconds: seconds!, processes: processes! });
}
if (parts.includes("memory")) result["memory"] = memoryOf(requests);
console.log(JSON.stringify(result, null, 1));
