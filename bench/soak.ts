/**
 * `deno run -A bench/soak.ts`: an engine under random requests of several tenants and KV dtypes, many of them aborted or
 * overdue, for as long as is asked. Fails when a greedy text is not the one that its prompt gave first (or its beginning, when it was cut
 * short), a request has no end, pages stay owned at rest, or memory grows. Give it a small `--kv-cache-memory`: pages touched
 * for the first time are memory too.
 *
 *     deno run -A bench/soak.ts [MODEL] [--minutes 30] [--clients 12] [--seed 1] [options of serve]
 *
 * Prints a line a minute and, at the end, JSON.
 *
 * @module
 */

import { collect } from "../engine/collect.ts";
import { samplingParams } from "../engine/sampling_params.ts";
import { startEngine } from "../engine/start_engine.ts";
import { DEADLINE_STOP_REASON, type Engine } from "../engine/types.ts";
import { fetchDemoModel } from "../models/demo.ts";
import { openModel } from "../models/open_model.ts";
import { parseBenchCommand } from "./_bench_command.ts";

/** Prompts: a few beginnings that many share, of lengths around pages' edges. */
const NUM_BEGINNINGS = 5;
const LENGTHS = [1, 15, 16, 17, 31, 33, 64, 100];
const ABORT_SHARE = 0.3;
const DEADLINE_SHARE = 0.1;
/** Of different weights. */
const NUM_TENANTS = 3;
/** Memory may grow by this much after the first quarter: caches of the runtime, not requests. */
const MAX_GROWTH_BYTES = 64 * 2 ** 20;

const { flags, options, source } = parseBenchCommand(Deno.args, ["minutes", "clients", "seed"]);
const minutes = Number(flags.minutes ?? 30);
const numClients = Number(flags.clients ?? 12);
const random = makeRandom(Number(flags.seed ?? 1));
const model = await openModel(source ?? await fetchDemoModel(), { loadFormat: options.loadFormat });
const engine = await startEngine({ ...options, model, numThreads: options.threads });

/** Greedy token ids by prompt and length: the first whole answer is what all later ones must be. */
const firstAnswers = new Map<string, readonly number[]>();
const faults: string[] = [];
/** Requests, and sequences of them by what became of them. */
const totals = { requests: 0, aborted: 0, overdue: 0, compared: 0 };
const endMs = performance.now() + minutes * 60_000;

function makeRandom(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor(state / 2 ** 32 * below);
  };
}

function makePrompt(): number[] {
  const beginning = random(NUM_BEGINNINGS);
  const length = LENGTHS[random(LENGTHS.length)]!;
  return Array.from({ length }, (_, i) => 100 + (beginning * 7919 + i * 104729) % (model.config.vocabSize - 200));
}

async function oneRequest(engine: Engine, id: string): Promise<void> {
  const promptTokenIds = makePrompt();
  const maxTokens = 1 + random(40);
  const temperature = random(4) === 0 ? 1 : 0;
  const n = random(5) === 0 ? 2 : 1;
  const sampling = samplingParams({ maxTokens, temperature, n, ignoreEos: random(2) === 0 });
  const { kvCacheDtypes } = engine.info;
  const kvCacheDtype = kvCacheDtypes[random(kvCacheDtypes.length)]!.dtype;
  const weight = 1 + random(NUM_TENANTS);
  const { abort, outputs } = collect(engine, {
    id,
    promptTokenIds,
    sampling,
    priority: random(3),
    kvCacheDtype,
    tenant: { name: `of weight ${weight}`, weight },
    deadlineMs: random(1000) < DEADLINE_SHARE * 1000 ? random(1000) : null,
  });
  if (random(1000) < ABORT_SHARE * 1000) setTimeout(abort, random(300));
  totals.requests++;
  for (const { tokenIds, finishReason, stopReason } of await outputs) {
    const isOverdue = stopReason === DEADLINE_STOP_REASON;
    if (finishReason === "abort") totals.aborted++;
    if (isOverdue) totals.overdue++;
    const isWhole = finishReason !== "abort" && !isOverdue;
    if (temperature === 0) {
      compare([kvCacheDtype, maxTokens, sampling.ignoreEos, promptTokenIds].join("/"), tokenIds, isWhole);
    }
  }
}

function compare(key: string, tokenIds: readonly number[], isWhole: boolean): void {
  const first = firstAnswers.get(key);
  if (first === undefined) {
    if (isWhole) firstAnswers.set(key, tokenIds);
    return;
  }
  totals.compared++;
  const isSame = tokenIds.every((id, i) => id === first[i]) && (!isWhole || tokenIds.length === first.length);
  if (!isSame) faults.push(`greedy tokens of ${key.slice(0, 60)} changed`);
}

async function client(name: number): Promise<void> {
  for (let i = 0; performance.now() < endMs; i++) await oneRequest(engine, `soak-${name}-${i}`);
}

const rss: number[] = [];
const sample = () => {
  rss.push(Deno.memoryUsage().rss);
  const { kvCacheUsage, preemptionsTotal, prefixCacheHitsTotal } = engine.stats();
  console.error(JSON.stringify({ ...totals, rss: rss.at(-1), kvCacheUsage, preemptionsTotal, prefixCacheHitsTotal }));
};
const timer = setInterval(sample, Math.min(60_000, minutes * 6_000));
await Promise.all(Array.from({ length: numClients }, (_, name) => client(name)));
clearInterval(timer);
sample();

const stats = engine.stats();
const growthBytes = rss.at(-1)! - rss[Math.floor(rss.length / 4)]!;
if (stats.kvCacheUsage !== 0) faults.push(`${stats.kvCacheUsage} of the pages are owned at rest`);
if (stats.numRequestsRunning + stats.numRequestsWaiting !== 0) faults.push("requests are left");
if (stats.requestsFinishedTotal.error !== 0) faults.push(`${stats.requestsFinishedTotal.error} requests failed`);
if (growthBytes > MAX_GROWTH_BYTES) faults.push(`memory grew by ${growthBytes} bytes`);
const ended = Object.values(stats.requestsFinishedTotal).reduce((a, b) => a + b);
if (ended !== totals.requests) faults.push(`${totals.requests} requests, but ${ended} ends`);
await engine.close();
console.log(JSON.stringify({ minutes, ...totals, growthBytes, stats, faults: faults.slice(0, 20) }, null, 1));
Deno.exit(faults.length === 0 ? 0 : 1);
