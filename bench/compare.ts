/**
 * `deno task bench:compare`: puts results of `offline.ts` and `serve.ts` beside vLLM's on the same kind of card and prints
 * tables with ratios and, for decode, the least time that the bytes and products of a step need.
 *
 *     deno task bench:compare --anchors results.json [--bandwidth 3.09] [--tflops 660] [--tflops-fp8 1200]
 *         OFFLINE.json ... SERVE.json ...
 *
 * The anchors' file has `offline.{bf16,fp8,fp8w}` and `serve.{bf16,fp8}`: decode cells (concurrency, prompt, new,
 * itl_ms_median), prefill cells (batch, prompt, tok_s), kv_tokens, and server cells (concurrency, ttft_ms_p50, ...).
 * `--bandwidth` is what the card reads, in TB/s, unless a result names its own; `--tflops` what its products reach.
 *
 * @module
 */

import { parseArgs } from "@std/cli";
import { cellName } from "./_cells.ts";

interface OfflineResult {
  readonly kvCacheDtype: string;
  readonly quantization: string;
  readonly readTerabytesPerSecond: number | null;
  readonly numKvTokens: number;
  readonly kvBytesPerToken: number;
  readonly readWeightBytes: number;
  readonly device: { readonly name: string };
  readonly decode: readonly { streams: number; prompt: number; new: number; msBetweenTokens: number }[];
  readonly prefill: readonly { streams: number; prompt: number; promptTokensPerSecond: number }[];
}

interface Percentiles {
  readonly p50: number;
  readonly p99: number;
}

interface ServeResult {
  readonly kvCacheDtype: string;
  readonly quantization: string;
  readonly cells: readonly {
    clients: number;
    ttftMs: Percentiles;
    itlMs: Percentiles;
    tpotMs: Percentiles;
    outputTokensPerSecond: number;
  }[];
}

interface OfflineAnchor {
  readonly kv_tokens: number;
  readonly decode: readonly { concurrency: number; prompt: number; new: number; itl_ms_median: number }[];
  readonly prefill: readonly { batch: number; prompt: number; tok_s: number }[];
}

type ServeCell = Readonly<Record<string, number>>;

interface Anchors {
  readonly offline: Readonly<Record<string, OfflineAnchor>>;
  readonly serve: Readonly<Record<string, { readonly cells: readonly ServeCell[] }>>;
}

const flags = parseArgs(Deno.args, {
  string: ["anchors", "bandwidth", "tflops", "tflops-fp8", "_"],
  default: { bandwidth: "3.09", tflops: "660", "tflops-fp8": "1200" },
});

/** Which of the anchors' runs a result stands beside: fp8w is FP8 weights with an FP8 cache. */
function anchorKey(result: { kvCacheDtype: string; quantization: string }): string {
  if (result.quantization === "fp8") return "fp8w";
  return result.kvCacheDtype.startsWith("fp8") ? "fp8" : "bf16";
}

/** Milliseconds that a decode step needs at least, halfway through its cell's new tokens. */
function boundMs(result: OfflineResult, cell: { streams: number; prompt: number; new: number }): number {
  const bandwidth = (result.readTerabytesPerSecond ?? Number(flags.bandwidth)) * 1e9; // bytes a millisecond
  const flops = Number(result.quantization === "fp8" ? flags["tflops-fp8"] : flags.tflops) * 1e9;
  const weightBytesEach = result.quantization === "fp8" ? 1 : 2;
  const products = 2 * cell.streams * result.readWeightBytes / weightBytesEach / flops;
  const kvBytes = cell.streams * (cell.prompt + cell.new / 2) * result.kvBytesPerToken;
  return Math.max(result.readWeightBytes / bandwidth, products) + kvBytes / bandwidth;
}

function mean(values: readonly number[]): number | null {
  return values.length === 0 ? null : values.reduce((sum, value) => sum + value, 0) / values.length;
}

function cell(value: number | null, digits = 2): string {
  return value === null ? "-" : value.toFixed(digits);
}

function ratio(ours: number, theirs: number | null): string {
  return theirs === null ? "-" : (ours / theirs).toFixed(3);
}

function printTable(title: string, head: readonly string[], rows: readonly (readonly string[])[]): void {
  console.log(`\n## ${title}\n\n| ${head.join(" | ")} |\n|${head.map(() => "---|").join("")}`);
  for (const row of rows) console.log(`| ${row.join(" | ")} |`);
}

function compareOffline(result: OfflineResult, anchors: Anchors): void {
  const anchor = anchors.offline[anchorKey(result)];
  const name = `${result.kvCacheDtype} KV, weights ${result.quantization === "fp8" ? "FP8" : "as they are"}`;
  const cells = new Map(result.decode.map((one) => [cellName(one), one]));
  printTable(
    `Decode, ${name}, ${result.device.name}: milliseconds between tokens`,
    ["streams x prompt + new", "octavo", "vLLM", "octavo / vLLM", "bound", "bound / octavo"],
    [...cells].map(([key, one]) => {
      const same = result.decode.filter((other) => cellName(other) === key);
      const ours = mean(same.map((other) => other.msBetweenTokens))!;
      const theirs = mean(
        (anchor?.decode ?? [])
          .filter((a) => a.concurrency === one.streams && a.prompt === one.prompt && a.new === one.new)
          .map((a) => a.itl_ms_median),
      );
      const bound = boundMs(result, one);
      return [key, cell(ours), cell(theirs), ratio(ours, theirs), cell(bound), ratio(bound, ours)];
    }),
  );
  printTable(
    `Prefill, ${name}: prompt tokens a second`,
    ["prompts", "octavo", "vLLM", "octavo / vLLM"],
    result.prefill.map((one) => {
      const found = anchor?.prefill.find((a) => a.batch === one.streams && a.prompt === one.prompt);
      const theirs = found?.tok_s ?? null;
      const ours = one.promptTokensPerSecond;
      return [`${one.streams} x ${one.prompt}`, cell(ours, 0), cell(theirs, 0), ratio(ours, theirs)];
    }),
  );
  console.log(`\nKV tokens: ${result.numKvTokens}, vLLM ${anchor?.kv_tokens ?? "-"}`);
}

function compareServe(result: ServeResult, anchors: Anchors): void {
  const anchor = anchors.serve[anchorKey(result)];
  const rows = result.cells.flatMap((one) => {
    const theirs = anchor?.cells.find((a) => a["concurrency"] === one.clients);
    const pair = (what: string, ours: number, key: string) => {
      const their = theirs?.[key] ?? null;
      return [`${one.clients}`, what, cell(ours), cell(their), ratio(ours, their)];
    };
    return [
      pair("output tokens/s", one.outputTokensPerSecond, "out_tok_s"),
      pair("TTFT p50 ms", one.ttftMs.p50, "ttft_ms_p50"),
      pair("TTFT p99 ms", one.ttftMs.p99, "ttft_ms_p99"),
      pair("ITL p50 ms", one.itlMs.p50, "itl_ms_p50"),
      pair("ITL p99 ms", one.itlMs.p99, "itl_ms_p99"),
      pair("TPOT p50 ms", one.tpotMs.p50, "tpot_ms_p50"),
      pair("TPOT p99 ms", one.tpotMs.p99, "tpot_ms_p99"),
    ];
  });
  const title = `Server, --kv-cache-dtype ${result.kvCacheDtype}, --quantization ${result.quantization}`;
  printTable(title, ["clients", "", "octavo", "vLLM", "octavo / vLLM"], rows);
}

if (flags.anchors === undefined || flags._.length === 0) {
  console.error("Expected --anchors FILE and at least one result of bench:offline or bench:serve");
  Deno.exit(2);
}
const anchors: Anchors = JSON.parse(await Deno.readTextFile(flags.anchors));
for (const file of flags._) {
  const result = JSON.parse(await Deno.readTextFile(String(file)));
  if ("cells" in result) compareServe(result, anchors);
  else compareOffline(result, anchors);
}
