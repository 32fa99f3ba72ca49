/**
 * What the benches of guesses share: one request of an engine, with its tokens and when they came, and their JSON.
 *
 * @module
 */

import type { Engine, SamplingParams, Usage } from "../engine/types.ts";
import { VERSION } from "../version.ts";
import { emit } from "./_bench_command.ts";

export interface TimedRun {
  readonly tokens: readonly number[];
  /** Of the first token and the last, in `performance.now()`'s milliseconds. */
  readonly startMs: number;
  readonly endMs: number;
  readonly usage: Usage;
}

let numRequests = 0;

export function timedRun(
  engine: Engine,
  promptTokenIds: readonly number[],
  sampling: SamplingParams,
): Promise<TimedRun> {
  const tokens: number[] = [];
  let startMs = 0;
  let endMs = 0;
  return new Promise((resolve, reject) => {
    engine.submit({ id: `bench-${numRequests++}`, promptTokenIds, sampling }, {
      deltas: (deltas) => {
        endMs = performance.now();
        if (tokens.length === 0) startMs = endMs;
        for (const { tokenIds } of deltas) tokens.push(...tokenIds);
      },
      end: (usage) => resolve({ tokens, startMs, endMs, usage }),
      error: reject,
    });
  });
}

/** A bench's settings and results. */
export interface GuessReport {
  readonly numSpeculativeTokens: number;
  readonly promptLookupMin: number;
  readonly repeats: number;
  readonly results: readonly unknown[];
}

/** Prints a bench's JSON, or writes it to a file. */
export async function emitGuesses(
  { info }: Engine,
  modelName: string,
  report: GuessReport,
  file: string | undefined,
): Promise<void> {
  const { device, numThreads, kvCacheDtype } = info;
  await emit({ engine: `octavo ${VERSION}`, model: modelName, device, numThreads, kvCacheDtype, ...report }, file);
}
