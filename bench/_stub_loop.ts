/**
 * A step loop on a stub of the native library, which takes as long for a step as it is told and samples the same token for
 * every row: what is left is what scheduling, text and messages cost.
 *
 * @module
 */

import { Counters } from "../engine/counters.ts";
import type { StepBufferViews, StepRunner } from "../engine/native.ts";
import { StepLoop } from "../engine/step_loop.ts";
import { newStepBuffer, tokenTable } from "../tests/engine/_fake_model.ts";

export const PAGE_SIZE = 16;
/** Pages for each of the sequences that run. */
export const PAGES_PER_SEQ = 256;
/** Ids are letters. */
export const STUB_TABLE = tokenTable([..."abcdefghijklmnop"]);
export const VOCAB_SIZE = STUB_TABLE.offsets.length - 1;
const TOKEN = 5;
const MAX_NUM_BATCHED_TOKENS = 2048;

export interface StubLoopOptions {
  readonly maxNumSeqs: number;
  readonly looksAhead: boolean;
  /** Milliseconds of a step; 0: none at all. */
  readonly stepMs: number;
  readonly counters?: Counters;
}

/** Runs steps one after another as a device does: each begins when it is submitted and the one before has ended. */
class StubRunner implements StepRunner {
  readonly buffers: readonly [StepBufferViews, StepBufferViews];
  readonly #stepMs: number;
  readonly #ends: number[] = [];
  #lastEndMs = 0;
  readonly #never = new Int32Array(new SharedArrayBuffer(4));

  constructor({ maxNumSeqs, stepMs }: StubLoopOptions) {
    this.buffers = [stubBuffer(maxNumSeqs), stubBuffer(maxNumSeqs)];
    this.#stepMs = stepMs;
  }

  submit(): void {
    if (this.#stepMs === 0) return;
    this.#lastEndMs = Math.max(performance.now(), this.#lastEndMs) + this.#stepMs;
    this.#ends.push(this.#lastEndMs);
  }

  finish(): void {
    if (this.#stepMs === 0) return;
    const endMs = this.#ends.shift()!;
    for (let left = endMs - performance.now(); left > 0; left = endMs - performance.now()) {
      Atomics.wait(this.#never, 0, 0, left);
    }
  }
}

function stubBuffer(maxNumSeqs: number): StepBufferViews {
  const buffer = newStepBuffer({
    maxNumSeqs,
    maxNumBatchedTokens: MAX_NUM_BATCHED_TOKENS,
    pageSize: PAGE_SIZE,
    numPages: PAGES_PER_SEQ,
    maxLogitEdits: 1024,
  });
  buffer.sampled.fill(TOKEN);
  return buffer;
}

/** The loop; its pool holds `maxNumSeqs` of the longest sequences. */
export function stubLoop(options: StubLoopOptions): StepLoop {
  return new StepLoop(new StubRunner(options), {
    pageSize: PAGE_SIZE,
    numPages: options.maxNumSeqs * PAGES_PER_SEQ,
    vocabSize: VOCAB_SIZE,
    tokenTable: STUB_TABLE,
    eosTokenIds: [],
    counters: options.counters ?? new Counters(),
    kvFingerprint: "stub",
    looksAhead: options.looksAhead,
    warn: (message) => {
      throw new Error(message);
    },
  });
}
