/** Calculated KV scales of the fake model. */

import { assertEquals } from "@std/assert";
import type { KvScaleSource } from "../../engine/kv_scale_window.ts";
import type { FakeRunner } from "./_fake_model.ts";

/** Sets them as the native engine does: what was stored before is void unless they stay as they were. */
export class FakeScales implements KvScaleSource {
  readonly ends: { scales: number[]; numTokens: number }[] = [];
  numSteps = 0;
  #scales = new Float32Array([1, 1]);

  constructor(readonly runner: FakeRunner, readonly last: readonly [number, number]) {}

  kvScales() {
    return this.#scales.slice();
  }

  freezeKvScales() {
    assertEquals(this.ends.length, 0, "scales are set once");
    if (this.last.some((scale, i) => scale !== this.#scales[i])) this.runner.spoil();
    this.numSteps = this.runner.numSteps;
    this.#scales.set(this.last);
  }
}
