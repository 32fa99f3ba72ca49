/**
 * `deno run -A bench/scheduler.ts`: what scheduling does to a trace of requests: the real scheduler, page pool and step
 * loop in virtual time, no model. Policies are compared on the same trace.
 *
 *     deno run -A bench/scheduler.ts [poisson|bursts|long-tail|long-prompts|long-bursts|tenants|FILE ...] [--requests 3000] [--rate R] [--seed 1]
 *         [--pages 5000] [--page-size 16] [--seqs 256] [--budget 2048] [--policies engine,one-page,...] [--mixed] [--json]
 *     deno run -A bench/scheduler.ts --write FILE poisson [--requests ...]
 *
 * FILE is a trace (`bench/_trace.ts` has its format); `--write` makes one up. `--rate` is requests a second; left out, one
 * that keeps the default pool busy. `--mixed`: steps that decode have a GPU's smaller budget. Prints tables of Markdown, or
 * JSON. Gaps are those between a request's tokens; "worst" is the longest of each request. Waste is tokens computed again,
 * of all computed. Fairness is Jain's index of what the tenants had, divided by weight, until the last request arrived; 1
 * is even.
 *
 * @module
 */

import { parseArgs } from "@std/cli";
import type { Growth } from "../engine/growth_reserve.ts";
import { mixedStepTokens } from "../engine/step_sizes.ts";
import { percentile, round } from "./_cells.ts";
import { type Life, simulate, type Simulation, type SimulationOptions } from "./_simulation.ts";
import { makeTrace, parseTrace, TRACE_KINDS, type TraceKind, type TraceRequest } from "./_trace.ts";

/** Llama-3.1-8B with an FP8 cache on an H100, from docs/performance.md: 5.8 ms alone, 14.6 ms at 256 x 1000. */
const COST = { stepMs: 5.7, promptTokenMs: 0.026, contextTokenMs: 3.2e-5 };

/** Requests a second that keep the default pool busy. */
const RATES: Readonly<Record<TraceKind, number>> = {
  poisson: 32,
  bursts: 34,
  "long-tail": 40,
  "long-prompts": 12,
  "long-bursts": 12,
  tenants: 80,
};

interface Policy {
  readonly reserve?: (growth: Growth) => number;
  readonly isFifo?: boolean;
}

const POLICIES: Readonly<Record<string, Policy>> = {
  engine: {},
  "reserve nothing": { reserve: () => 0 },
  "reserve a page each": { reserve: ({ numGrowing }) => numGrowing },
  "reserve 2 pages each": { reserve: ({ numGrowing, numPagesLeft }) => Math.min(numPagesLeft, 2 * numGrowing) },
  "reserve max_tokens": { reserve: ({ numPagesLeft }) => numPagesLeft },
  "first come first served": { isFifo: true },
};

interface Figures {
  readonly policy: string;
  readonly outputTokensPerS: number;
  readonly ttftMs: readonly [p50: number, p99: number];
  readonly gapMs: readonly [p50: number, p99: number];
  readonly worstGapMs: readonly [p50: number, p99: number];
  readonly preemptions: number;
  readonly waste: number;
  readonly fullness: number;
  readonly fairness: number;
  readonly tenantTtftMs: Readonly<Record<string, readonly [p50: number, p99: number]>>;
}

const flags = parseArgs(Deno.args, {
  string: ["requests", "rate", "seed", "pages", "page-size", "seqs", "budget", "policies", "write", "_"],
  boolean: ["json", "mixed"],
});

function isKind(name: string): name is TraceKind {
  return (TRACE_KINDS as readonly string[]).includes(name);
}

async function traceOf(source: string): Promise<TraceRequest[]> {
  if (!isKind(source)) return parseTrace(await Deno.readTextFile(source));
  const rate = Number(flags.rate ?? RATES[source]);
  return makeTrace(source, { numRequests: Number(flags.requests ?? 3000), rate, seed: Number(flags.seed ?? 1) });
}

function optionsOf({ reserve, isFifo = false }: Policy): SimulationOptions {
  return {
    pageSize: Number(flags["page-size"] ?? 16),
    numPages: Number(flags.pages ?? 5000),
    maxNumSeqs: Number(flags.seqs ?? 256),
    maxNumBatchedTokens: Number(flags.budget ?? 2048),
    cost: COST,
    reserve,
    mixedStepTokens: flags.mixed ? mixedStepTokens : undefined,
    hasTenants: !isFifo,
  };
}

function figures(policy: string, simulation: Simulation): Figures {
  const { lives, endMs, numPreemptions, numWasted, numComputed, fullness } = simulation;
  const gaps = lives.map(({ tokenMs }) => tokenMs.slice(1).map((ms, i) => ms - tokenMs[i]!));
  const both = (values: readonly number[]) => [percentile(values, 0.5), percentile(values, 0.99)] as const;
  return {
    policy,
    outputTokensPerS: lives.reduce((sum, { tokenMs }) => sum + tokenMs.length, 0) / endMs * 1000,
    ttftMs: both(lives.map(({ tokenMs, request }) => tokenMs[0]! - request.at_ms)),
    gapMs: both(gaps.flat()),
    worstGapMs: both(gaps.filter(({ length }) => length > 0).map((of) => Math.max(...of))),
    preemptions: numPreemptions,
    waste: numWasted / numComputed,
    fullness,
    fairness: jain(lives),
    tenantTtftMs: Object.fromEntries(
      [...Map.groupBy(lives, ({ request }) => request.tenant)].map(([tenant, own]) => {
        return [tenant, both(own.map(({ tokenMs, request }) => tokenMs[0]! - request.at_ms))];
      }),
    ),
  };
}

/** Of 1 / number of tenants (one had all) to 1 (each had its weight's share). */
function jain(lives: readonly Life[]): number {
  const untilMs = lives.at(-1)!.request.at_ms;
  const shares = new Map<string, number>();
  for (const { request: { tenant, weight, prompt_tokens }, tokenMs } of lives) {
    const numTokens = tokenMs.filter((ms) => ms <= untilMs).length;
    // A sampled token counts for its computation too.
    const service = numTokens === 0 ? 0 : prompt_tokens + 2 * numTokens;
    shares.set(tenant, (shares.get(tenant) ?? 0) + service / weight);
  }
  const values = [...shares.values()];
  const sum = values.reduce((total, value) => total + value, 0);
  return sum ** 2 / (values.length * values.reduce((total, value) => total + value ** 2, 0));
}

function pair([p50, p99]: readonly [number, number], digits = 0): string {
  return `${round(p50, digits)} / ${round(p99, digits)}`;
}

function tableRow(row: Figures): string {
  const cells = [
    row.policy,
    Math.round(row.outputTokensPerS),
    pair(row.ttftMs),
    pair(row.gapMs, 1),
    pair(row.worstGapMs),
    row.preemptions,
    `${round(row.waste * 100, 2)} %`,
    `${round(row.fullness * 100, 1)} %`,
    round(row.fairness, 3),
  ];
  return `| ${cells.join(" | ")} |`;
}

const TABLE_HEAD = "| policy | tokens/s | first token p50 / p99, ms | gap p50 / p99, ms | worst gap p50 / p99, ms " +
  "| preemptions | waste | pool used | fairness |\n|---|---|---|---|---|---|---|---|---|";

/** How long each tenant waits, by policy; "" for a trace of one. */
function tenantTable(rows: readonly Figures[]): string {
  const tenants = Object.keys(rows[0]?.tenantTtftMs ?? {}).sort();
  if (tenants.length < 2) return "";
  const line = (cells: readonly (string | number)[]) => `| ${cells.join(" | ")} |\n`;
  const body = rows.map(({ policy, tenantTtftMs }) =>
    line([policy, ...tenants.map((one) => pair(tenantTtftMs[one]!))])
  );
  return `\n${line(["first token p50 / p99, ms", ...tenants])}|---${"|---".repeat(tenants.length)}|\n${body.join("")}`;
}

const sources = flags._.length > 0 ? flags._.map(String) : TRACE_KINDS;
const wanted = flags.policies?.split(",") ?? Object.keys(POLICIES);
for (const source of sources) {
  const trace = await traceOf(source);
  if (flags.write !== undefined) {
    await Deno.writeTextFile(flags.write, trace.map((request) => JSON.stringify(request) + "\n").join(""));
    continue;
  }
  const rows = wanted.map((name) => {
    const policy = POLICIES[name];
    if (policy === undefined) throw new RangeError(`Expected policies of ${Object.keys(POLICIES)}, received "${name}"`);
    return figures(name, simulate(trace, optionsOf(policy)));
  });
  if (flags.json) console.log(JSON.stringify({ source, rows }, null, 1));
  else console.log(`\n${source}\n\n${TABLE_HEAD}\n${rows.map(tableRow).join("\n")}\n${tenantTable(rows)}`);
}
