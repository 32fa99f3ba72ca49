/**
 * The engine's counters and gauges in shared memory: written by its Worker, read by anyone without waiting.
 *
 * @module
 */

import type { EndReason } from "./types.ts";

const NAMES = [
  "numRequestsRunning",
  "numPagesOwned",
  "promptTokensTotal",
  "generationTokensTotal",
  "preemptionsTotal",
  "prefixCacheQueriesTotal",
  "prefixCacheHitsTotal",
  "numPagesOwnedOf0",
  "numPagesOwnedOf1",
  "numPagesOwnedOf2",
  "numPagesOwnedOf3",
  "numPagesOwnedOf4",
  "numPagesOwnedOf5",
  "numPagesOwnedOf6",
  "numPagesOwnedOf7",
  "numHostPagesKept",
  "kvRestoredTokensTotal",
  "kvSavedBytesTotal",
  "kvRestoredBytesTotal",
  "stepsTotal",
  "speculativeStepsTotal",
  "guessedTokensTotal",
  "keptTokensTotal",
  "finishedStop",
  "finishedLength",
  "finishedAbort",
  "finishedError",
  "finishedDeadline",
  "lastStepTimeMs",
] as const;

export type CounterName = typeof NAMES[number];

const INDEX = Object.fromEntries(NAMES.map((name, index) => [name, index])) as Record<CounterName, number>;

const FINISHED: Record<EndReason, CounterName> = {
  stop: "finishedStop",
  length: "finishedLength",
  abort: "finishedAbort",
  deadline: "finishedDeadline",
  error: "finishedError",
};

/** 64-bit integers, each read and written whole. */
export class Counters {
  readonly memory: SharedArrayBuffer;
  readonly #cells: BigInt64Array;

  /** @param memory Of the counters made on the other side; new memory if left out. */
  constructor(memory = new SharedArrayBuffer(NAMES.length * BigInt64Array.BYTES_PER_ELEMENT)) {
    this.memory = memory;
    this.#cells = new BigInt64Array(memory);
  }

  get(name: CounterName): number {
    return Number(Atomics.load(this.#cells, INDEX[name]));
  }

  set(name: CounterName, value: number): void {
    Atomics.store(this.#cells, INDEX[name], BigInt(value));
  }

  add(name: CounterName, value: number): void {
    if (value !== 0) Atomics.add(this.#cells, INDEX[name], BigInt(value));
  }

  /** Pages owned, by the KV dtype's place among the engine's. */
  setPagesOwnedOf(kvIndex: number, numPages: number): void {
    Atomics.store(this.#cells, INDEX.numPagesOwnedOf0 + kvIndex, BigInt(numPages));
  }

  pagesOwnedOf(kvIndex: number): number {
    return Number(Atomics.load(this.#cells, INDEX.numPagesOwnedOf0 + kvIndex));
  }

  countFinished(reason: EndReason): void {
    this.add(FINISHED[reason], 1);
  }

  finishedTotal(): Record<EndReason, number> {
    return {
      stop: this.get("finishedStop"),
      length: this.get("finishedLength"),
      abort: this.get("finishedAbort"),
      deadline: this.get("finishedDeadline"),
      error: this.get("finishedError"),
    };
  }
}
