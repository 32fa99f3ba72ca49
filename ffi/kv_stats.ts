/**
 * `octavo_kv_stats.h`: an engine that counts how large its K and V are, for calibrating scales.
 *
 * @module
 */

import { LibraryError } from "./library.ts";
import { NativeEngine, type NativeEngineConfig } from "./native_engine.ts";
import type { NativeModel } from "./native_model.ts";

/** `OCTAVO_KV_STATS_BINS` */
export const KV_STATS_BINS = 512;

const SYMBOLS = {
  octavo_engine_collect_kv_stats: { parameters: ["pointer"], result: "i32" },
  octavo_engine_kv_stats: { parameters: ["pointer", "buffer", "buffer"], result: "i32" },
} as const;

/** Of each layer's K and V and each KV head: `[numLayers][2][numKvHeads]`. */
export interface KvStats {
  /** Largest magnitude. */
  readonly absmax: Float32Array<ArrayBuffer>;
  /** Counts of magnitudes, `[...][KV_STATS_BINS]`; bin i begins at {@linkcode kvStatsBinStart}. */
  readonly histogram: Float64Array<ArrayBuffer>;
}

/** Where bin i begins; eight bins an octave. */
export function kvStatsBinStart(bin: number): number {
  return 2 ** (Math.floor(bin / 8) - 24) * (1 + (bin % 8) / 8);
}

/** An engine that counts from its start. */
export class CountingEngine extends NativeEngine {
  readonly #dylib: Deno.DynamicLibrary<typeof SYMBOLS>;
  #isClosed = false;
  readonly #numScales: number;

  /** @throws {LibraryError} The library is a GPU build, which cannot count. */
  constructor(model: NativeModel, config: NativeEngineConfig) {
    super(model, config);
    this.#numScales = model.config.numLayers * 2 * model.config.numKvHeads;
    try {
      this.#dylib = Deno.dlopen(model.library.path, SYMBOLS);
    } catch (error) {
      super.close();
      throw new LibraryError(`Cannot calibrate with "${model.library.path}": ${(error as Error).message}`);
    }
    this.library.check(this.#dylib.symbols.octavo_engine_collect_kv_stats(this.pointer));
  }

  /** What all steps so far had. */
  stats(): KvStats {
    const absmax = new Float32Array(this.#numScales);
    const histogram = new Float64Array(this.#numScales * KV_STATS_BINS);
    this.library.check(this.#dylib.symbols.octavo_engine_kv_stats(this.pointer, absmax, histogram));
    return { absmax, histogram };
  }

  override close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    super.close();
    this.#dylib.close();
  }
}
