/**
 * What the step loop needs of the native engine: step buffers and two calls. `NativeEngine` of ffi/ is one; tests bring
 * their own.
 *
 * @module
 */

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
