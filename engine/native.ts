/**
 * What the step loop needs of the native engine: step buffers and a few calls. `NativeEngine` of ffi/ offers them; tests
 * bring their own.
 *
 * @module
 */

import type { TransferStats } from "../ffi/native_engine.ts";
import type { StepBuffer } from "../ffi/step_buffer.ts";

/** The tables of octavo.h's step buffer and their capacities. */
export type StepBufferViews = Omit<StepBuffer, "bytes">;

/** Runs steps on its buffers, in the order they are submitted; at most two are under way. */
export interface StepRunner {
  readonly buffers: readonly [StepBufferViews, StepBufferViews];
  /** Starts a step on a buffer's input tables. A token `-(row + 1)` is what that row of the step before sampled. */
  submit(buffer: StepBufferViews): void;
  /** Waits for the oldest step under way, whose buffer this is, and fills its output tables. */
  finish(buffer: StepBufferViews): void;
}

/** What the transfers of a {@linkcode PageMover} have done so far. */
export type TransferTotals = TransferStats;

/**
 * Copies pages between the cache and host memory, in the order of the calls; they may run on after a call, beside the
 * steps under way, which must not use these pages. Steps submitted later wait for them.
 */
export interface PageMover {
  /** `pages[i]` to host page `hostPages[i]`. */
  savePages(pages: Int32Array<ArrayBuffer>, hostPages: Int32Array<ArrayBuffer>): void;
  /** Host page `hostPages[i]` to `pages[i]`. */
  restorePages(pages: Int32Array<ArrayBuffer>, hostPages: Int32Array<ArrayBuffer>): void;
  /** Never waits. */
  transferStats(): TransferTotals;
}
