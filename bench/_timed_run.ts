/**
 * One request of an engine, its tokens and when they came.
 *
 * @module
 */

import type { Engine, SamplingParams, Usage } from "../engine/types.ts";

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
