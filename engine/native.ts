/**
 * What the step loop needs of the native engine: a step buffer and a call. `NativeEngine` of ffi/ is one; tests bring
 * their own.
 *
 * @module
 */

import type { StepBuffer } from "../ffi/step_buffer.ts";

/** The tables of octavo.h's step buffer and their capacities. */
export type StepBufferViews = Omit<StepBuffer, "bytes">;

/** Runs steps on its buffer. */
export interface StepRunner {
  readonly buffer: StepBufferViews;
  /** Reads the buffer's input tables and fills its output tables. Returns when the step is done. */
  step(): void;
}
