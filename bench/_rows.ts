/**
 * Rows of `bench/model.ts`, and the same rows from llama.cpp.
 *
 * @module
 */

/** One cell: an engine, a KV dtype, a phase, a depth. */
export interface Row {
  readonly engine: string;
  readonly kvDtype: string;
  /** "prefill" of `depth` tokens from an empty cache, or "decode" of single tokens at that depth. */
  readonly phase: "prefill" | "decode";
  readonly depth: number;
  /** Median and extremes over the repeats. */
  readonly tokensPerSecond: { readonly median: number; readonly min: number; readonly max: number };
}

export function summary(values: readonly number[]): Row["tokensPerSecond"] {
  const sorted = values.toSorted((a, b) => a - b);
  const round = (value: number) => Math.round(value * 10) / 10;
  return { median: round(sorted[sorted.length >> 1]!), min: round(sorted[0]!), max: round(sorted.at(-1)!) };
}

export interface LlamaCppOptions {
  /** The folder that holds llama-bench. */
  readonly folder: string;
  readonly modelPath: string;
  readonly threads: number;
  readonly depths: readonly number[];
  readonly tokens: number;
  readonly repeats: number;
}

/** llama.cpp's settings that were best here: f16 KV without flash attention, q8_0 KV with it. */
const SETTINGS = [["f16", "off"], ["q8_0", "on"]] as const;

/** Depths above this take llama.cpp minutes a cell. */
const DEEPEST = 2048;

export async function benchLlamaCpp(options: LlamaCppOptions): Promise<Row[]> {
  const rows: Row[] = [];
  const depths = options.depths.filter((depth) => depth <= DEEPEST);
  for (const [kv, flash] of SETTINGS) {
    const run = (args: string[]) => llamaBench(options, [...args, "-ctk", kv, "-ctv", kv, "-fa", flash]);
    const row = (phase: Row["phase"], depth: number, samples: readonly number[]): Row => ({
      engine: `llama.cpp (flash attention ${flash})`,
      kvDtype: kv,
      phase,
      depth,
      tokensPerSecond: summary(samples),
    });
    const prompts = depths.filter((depth) => depth > 0);
    for (const one of await run(["-n", "0", "-p", prompts.join(",")])) {
      rows.push(row("prefill", one.n_prompt, one.samples_ts));
    }
    for (const one of await run(["-p", "0", "-n", `${options.tokens}`, "-d", depths.join(",")])) {
      rows.push(row("decode", one.n_depth, one.samples_ts));
    }
  }
  return rows;
}

interface LlamaBenchRow {
  readonly n_prompt: number;
  readonly n_depth: number;
  readonly samples_ts: readonly number[];
}

async function llamaBench(options: LlamaCppOptions, args: readonly string[]): Promise<LlamaBenchRow[]> {
  const { code, stdout } = await new Deno.Command(`${options.folder}/llama-bench`, {
    args: ["-m", options.modelPath, "-t", `${options.threads}`, "-r", `${options.repeats}`, "-o", "json", ...args],
    stderr: "null",
  }).output();
  if (code !== 0) throw new Error(`llama-bench ended with code ${code}`);
  return JSON.parse(new TextDecoder().decode(stdout));
}

/** Octavo's figure over llama.cpp's best in the same cell. */
export function ratios(rows: readonly Row[]) {
  const peers = rows.filter((row) => row.engine.startsWith("llama.cpp"));
  return rows.filter((row) => row.engine.startsWith("octavo")).flatMap(({ kvDtype, phase, depth, tokensPerSecond }) => {
    const same = peers.filter((peer) => peer.phase === phase && peer.depth === depth);
    if (same.length === 0) return [];
    const best = Math.max(...same.map((peer) => peer.tokensPerSecond.median));
    return [{ kvDtype, phase, depth, timesBestOfLlamaCpp: Math.round(tokensPerSecond.median / best * 100) / 100 }];
  });
}
