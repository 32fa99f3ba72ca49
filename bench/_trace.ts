/**
 * Traces of requests for `bench/scheduler.ts`: a JSON object a line, in order of arrival.
 *
 * ```json
 * {"at_ms": 12.5, "prompt_tokens": 300, "output_tokens": 80, "max_tokens": 1024, "tenant": "a", "weight": 2}
 * ```
 *
 * | field | what |
 * |---|---|
 * | `at_ms` | when it arrives, from the trace's beginning |
 * | `prompt_tokens` | >= 1 |
 * | `output_tokens` | after how many tokens the model ends; the scheduler does not know it |
 * | `max_tokens` | its limit, which the scheduler knows; default `output_tokens` |
 * | `prefix`, `prefix_tokens` | requests of one `prefix` (a number) share so many tokens at the beginning; default none |
 * | `tenant`, `weight` | whose share it takes; default one tenant of weight 1 |
 * | `priority` | lower first; default 0 |
 *
 * @module
 */

import { makeRandom } from "./_cells.ts";

/** A line of a trace, complete. */
export interface TraceRequest {
  readonly at_ms: number;
  readonly prompt_tokens: number;
  readonly output_tokens: number;
  readonly max_tokens: number;
  readonly prefix: number | null;
  readonly prefix_tokens: number;
  readonly tenant: string;
  readonly weight: number;
  readonly priority: number;
}

/** @throws {RangeError} A line is not a request; the message has its number. */
export function parseTrace(text: string): TraceRequest[] {
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  return lines.map((line, i) => complete(JSON.parse(line), i + 1)).sort((a, b) => a.at_ms - b.at_ms);
}

function complete(given: Partial<TraceRequest>, line: number): TraceRequest {
  const { at_ms = NaN, prompt_tokens = NaN, output_tokens = NaN } = given;
  const { max_tokens = output_tokens } = given;
  for (const [name, value, low] of [["at_ms", at_ms, 0], ["prompt_tokens", prompt_tokens, 1]] as const) {
    if (!(value >= low)) throw new RangeError(`Line ${line} of the trace: ${name} must be >= ${low}, found ${value}`);
  }
  if (!(output_tokens >= 1 && max_tokens >= output_tokens)) {
    throw new RangeError(
      `Line ${line} of the trace: expected 1 <= output_tokens <= max_tokens, found ${output_tokens}, ${max_tokens}`,
    );
  }
  return {
    at_ms,
    prompt_tokens,
    output_tokens,
    max_tokens,
    prefix: given.prefix ?? null,
    prefix_tokens: given.prefix_tokens ?? 0,
    tenant: given.tenant ?? "",
    weight: given.weight ?? 1,
    priority: given.priority ?? 0,
  };
}

/** Kinds of made-up traces. */
export const TRACE_KINDS = ["poisson", "bursts", "long-tail", "long-prompts", "long-bursts", "tenants"] as const;
export type TraceKind = typeof TRACE_KINDS[number];

/** How a trace is made up. */
export interface TraceOptions {
  readonly numRequests: number;
  /** Requests a second, on average. */
  readonly rate: number;
  readonly seed: number;
}

/** Most tokens of a request, as chat clients leave it. */
const MAX_TOKENS = 2048;

/**
 * Makes up a trace.
 *  - poisson: independent arrivals; chat lengths (log-normal: median 300 in, 200 out)
 *  - bursts: the same requests, in bursts of 100 at once
 *  - long-tail: independent arrivals; Pareto lengths, a few prompts of many thousand tokens and outputs up to the limit
 *  - long-prompts: independent arrivals; chat lengths, but every fiftieth prompt has 30,000 tokens (tenant "long", the others
 *    "short")
 *  - long-bursts: the same, but of every 150 requests six in a row have 20,000 tokens and come at once
 *  - tenants: chat lengths; "flood" asks for 6 of 11 parts, "light" for 2, "double", which has weight 2, for 3
 */
export function makeTrace(kind: TraceKind, { numRequests, rate, seed }: TraceOptions): TraceRequest[] {
  const draw = new Draw(seed);
  let atMs = 0;
  return Array.from({ length: numRequests }, (_, i) => {
    if (kind === "bursts") atMs = Math.floor(i / 100) * 100 * 1000 / rate;
    else if (kind !== "long-bursts" || !isInLongBurst(i)) atMs += draw.exponential(1000 / rate);
    const isLong = kind === "long-tail";
    const prompt = isLong ? draw.pareto(100, 1.1, 8000) : draw.logNormal(300, 0.8, 4000);
    const output = isLong ? draw.pareto(60, 1.05, MAX_TOKENS) : draw.logNormal(200, 0.8, MAX_TOKENS);
    const lengths = { prompt_tokens: prompt, output_tokens: output, max_tokens: MAX_TOKENS };
    return complete({ at_ms: atMs, ...lengths, ...specialOf(kind, i, draw) }, i);
  });
}

function isInLongBurst(index: number): boolean {
  return index % 150 >= 50 && index % 150 < 56;
}

/** What a request has beside chat's lengths. */
function specialOf(kind: TraceKind, index: number, draw: Draw): Partial<TraceRequest> {
  switch (kind) {
    case "tenants":
      return draw.tenant();
    case "long-prompts":
      return index % 50 === 25 ? { tenant: "long", prompt_tokens: 30_000 } : { tenant: "short" };
    case "long-bursts":
      return isInLongBurst(index) ? { tenant: "long", prompt_tokens: 20_000 } : { tenant: "short" };
    default:
      return {};
  }
}

/** Random numbers of the distributions that traces need. */
class Draw {
  readonly #uniform: () => number;

  constructor(seed: number) {
    const random = makeRandom(seed);
    // Above 0, for logarithms.
    this.#uniform = () => 1 - random();
  }

  exponential(mean: number): number {
    return -Math.log(this.#uniform()) * mean;
  }

  logNormal(median: number, sigma: number, limit: number): number {
    const normal = Math.sqrt(-2 * Math.log(this.#uniform())) * Math.cos(2 * Math.PI * this.#uniform());
    return Math.max(1, Math.min(limit, Math.round(median * Math.exp(sigma * normal))));
  }

  pareto(least: number, shape: number, limit: number): number {
    return Math.min(limit, Math.round(least * this.#uniform() ** (-1 / shape)));
  }

  tenant(): { tenant: string; weight: number } {
    const value = this.#uniform() * 11;
    if (value < 6) return { tenant: "flood", weight: 1 };
    return value < 8 ? { tenant: "light", weight: 1 } : { tenant: "double", weight: 2 };
  }
}
