/**
 * A trace through the real step loop (scheduler, page pool, prefix cache) in virtual time: no model, and a clock that each
 * step moves on by what a model of costs says.
 *
 * @module
 */

import { Counters } from "../engine/counters.ts";
import type { StepBufferViews, StepRunner } from "../engine/native.ts";
import { samplingParams } from "../engine/sampling_params.ts";
import type { Growth } from "../engine/growth_reserve.ts";
import { StepLoop } from "../engine/step_loop.ts";
import { newStepBuffer, tokenTable } from "../tests/engine/_fake_model.ts";
import type { TraceRequest } from "./_trace.ts";

const EOS = 0;
const TOKEN = 1;
const TABLE = tokenTable(["<eos>", "a"], { special: [EOS] });

/** What a step takes. */
export interface StepCost {
  readonly stepMs: number;
  /** Each token of a prompt's chunk. */
  readonly promptTokenMs: number;
  /** Each token in the cache that attention reads for a sequence. */
  readonly contextTokenMs: number;
}

export interface SimulationOptions {
  readonly pageSize: number;
  readonly numPages: number;
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
  readonly cost: StepCost;
  /** Pages that a newcomer must leave free; the engine's own if left out. */
  readonly reserve?: ((growth: Growth) => number) | undefined;
  /** Tokens of a step that decodes; as many as any step has if left out. */
  readonly mixedStepTokens?: ((numDecodes: number) => number) | undefined;
  /** Whether requests have their tenants; else all are one. */
  readonly hasTenants: boolean;
}

/** What one request lived through, in virtual milliseconds. */
export interface Life {
  readonly request: TraceRequest;
  readonly tokenMs: number[];
}

export interface Simulation {
  readonly lives: readonly Life[];
  readonly endMs: number;
  readonly numSteps: number;
  readonly numPreemptions: number;
  /** Tokens that steps computed, of prompts and outputs. */
  readonly numComputed: number;
  /** Of them, those computed again after a preemption. */
  readonly numWasted: number;
  /** Pages owned, of all, averaged over time while requests wait. */
  readonly fullness: number;
}

/** Samples what the trace says; its clock moves when a step is finished. */
class VirtualRunner implements StepRunner {
  readonly buffers: readonly [StepBufferViews, StepBufferViews];
  nowMs = 0;
  numSteps = 0;
  numComputed = 0;
  lastStepMs = 0;
  readonly #cost: StepCost;
  readonly #trace: readonly TraceRequest[];

  constructor(options: SimulationOptions, trace: readonly TraceRequest[]) {
    const { maxNumSeqs, maxNumBatchedTokens, pageSize, cost } = options;
    const longest = Math.max(...trace.map(({ prompt_tokens, max_tokens }) => prompt_tokens + max_tokens));
    const make = () =>
      newStepBuffer({
        maxNumSeqs,
        maxNumBatchedTokens,
        pageSize,
        numPages: Math.ceil(longest / pageSize),
        maxLogitEdits: 1,
      });
    this.buffers = [make(), make()];
    this.#cost = cost;
    this.#trace = trace;
  }

  submit({ header, queryLen, seqLen, sampleIndex, seed, sampled }: StepBufferViews): void {
    const { stepMs, promptTokenMs, contextTokenMs } = this.#cost;
    let ms = stepMs;
    for (let s = 0; s < header[0]!; s++) {
      if (queryLen[s]! > 1) ms += queryLen[s]! * promptTokenMs;
      ms += seqLen[s]! * contextTokenMs;
      this.numComputed += queryLen[s]!;
      // A request's seed is its place in the trace.
      sampled[s] = sampleIndex[s]! + 1 === this.#trace[seed[2 * s]!]!.output_tokens ? EOS : TOKEN;
    }
    this.lastStepMs = ms;
    this.numSteps++;
  }

  finish(): void {
    this.nowMs += this.lastStepMs;
  }
}

/** Runs a trace to its end. @throws {RangeError} A request does not fit the pool. */
export function simulate(trace: readonly TraceRequest[], options: SimulationOptions): Simulation {
  const runner = new VirtualRunner(options, trace);
  const counters = new Counters();
  const { pageSize, numPages, hasTenants, reserve, mixedStepTokens } = options;
  const loop = new StepLoop(runner, {
    pageSize,
    numPages,
    vocabSize: 2,
    tokenTable: TABLE,
    eosTokenIds: [EOS],
    counters,
    kvFingerprint: "simulation",
    looksAhead: false,
    warn: (message) => {
      throw new Error(message);
    },
    now: () => runner.nowMs,
    reserve,
    mixedStepTokens,
  });
  const lives = trace.map((request): Life => ({ request, tokenMs: [] }));
  let next = 0;
  let fullMs = 0;
  let waitedMs = 0;
  while (next < trace.length || !loop.isIdle) {
    if (loop.isIdle) runner.nowMs = Math.max(runner.nowMs, trace[next]!.at_ms);
    for (; next < trace.length && trace[next]!.at_ms <= runner.nowMs; next++) {
      loop.submit(submitted(trace[next]!, next, { numKvTokens: numPages * pageSize, hasTenants }));
    }
    loop.step();
    const numLive = next - counters.finishedTotal().stop - counters.finishedTotal().length;
    if (numLive > counters.get("numRequestsRunning")) {
      waitedMs += runner.lastStepMs;
      fullMs += runner.lastStepMs * counters.get("numPagesOwned") / numPages;
    }
    for (const { key, deltas, error } of loop.takeOutcomes()) {
      if (error !== null) throw new Error(error);
      for (const { tokenIds } of deltas) for (const _ of tokenIds) lives[key]!.tokenMs.push(runner.nowMs);
    }
  }
  const needed = lives.reduce((sum, { request, tokenMs }) => sum + request.prompt_tokens + tokenMs.length - 1, 0);
  return {
    lives,
    endMs: runner.nowMs,
    numSteps: runner.numSteps,
    numPreemptions: counters.get("preemptionsTotal"),
    numComputed: runner.numComputed,
    numWasted: runner.numComputed + counters.get("prefixCacheHitsTotal") - needed,
    fullness: fullMs / Math.max(1, waitedMs),
  };
}

function submitted(request: TraceRequest, key: number, engine: { numKvTokens: number; hasTenants: boolean }) {
  const { prompt_tokens, max_tokens, prefix, prefix_tokens, tenant, weight, priority } = request;
  const { numKvTokens } = engine;
  if (prompt_tokens + max_tokens - 1 > numKvTokens) {
    throw new RangeError(
      `Request ${key} of ${prompt_tokens} + ${max_tokens} tokens does not fit the pool's ${numKvTokens}`,
    );
  }
  const prompt = Int32Array.from({ length: prompt_tokens }, (_, i) => {
    const isShared = prefix !== null && i < prefix_tokens;
    return Math.imul(isShared ? -1 - prefix : key + 1, 0x9e3779b1) ^ i;
  });
  return {
    key,
    id: `${key}`,
    prompt,
    sampling: samplingParams({ maxTokens: max_tokens, temperature: 0, seed: key }),
    priority,
    cacheSalt: "",
    ...engine.hasTenants && { tenant: { name: tenant, weight } },
  };
}
