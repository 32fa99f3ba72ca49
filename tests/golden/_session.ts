/**
 * One sequence on the native library, token by token: what golden tests and accuracy figures need.
 *
 * @module
 */

import { computeDtype } from "../../engine/compute_dtype.ts";
import { type Library, openLibrary } from "../../ffi/library.ts";
import type { Backend } from "../../ffi/library_search.ts";
import { NativeEngine, type NativeEngineConfig } from "../../ffi/native_engine.ts";
import { NativeModel } from "../../ffi/native_model.ts";
import type { ModelFiles } from "../../models/types.ts";

export type KvDtype = NativeEngineConfig["kvDtype"];

/** A model with its weights loaded. */
export class LoadedModel implements Disposable {
  private constructor(readonly files: ModelFiles, readonly library: Library, readonly native: NativeModel) {}

  /** @param options.maxModelLen Longest sequence of a session; benches go beyond the model's own length. */
  static async open(
    files: ModelFiles,
    { maxModelLen = files.config.maxModelLen, backend = "cpu" }: { maxModelLen?: number; backend?: Backend } = {},
  ): Promise<LoadedModel> {
    const library = await openLibrary(backend);
    const config = { ...files.config, maxModelLen, computeDtype: computeDtype(files.config, files.tensors) };
    const native = new NativeModel(library, config);
    for (const path of files.paths) native.addFile(path);
    for (const tensor of files.tensors) native.loadTensor(tensor);
    native.finish();
    return new LoadedModel(files, library, native);
  }

  /** An engine for one sequence of at most maxLen tokens. */
  session(
    kvDtype: KvDtype,
    maxLen = 256,
    kvScales: Float32Array | null = null,
    kMean: Float32Array | null = null,
  ): Session {
    return new Session(this, { kvDtype, maxLen, kvScales, kMean });
  }

  [Symbol.dispose](): void {
    this.native.close();
    this.library.close();
  }
}

/** A sequence that grows; every call of {@linkcode feed} is one step. */
export class Session implements Disposable {
  readonly #engine: NativeEngine;
  #length = 0;

  /**
   * @param options.kvScales `[numLayers][2][numKvHeads]`; null = 1.
   * @param options.kMean `[numLayers][numKvHeads][headDim]`; null = 0.
   */
  constructor(
    model: LoadedModel,
    { kvDtype, maxLen, kvScales, kMean }: {
      kvDtype: KvDtype;
      maxLen: number;
      kvScales: Float32Array | null;
      kMean: Float32Array | null;
    },
  ) {
    const numPages = Math.ceil(maxLen / 16);
    this.#engine = new NativeEngine(
      model.native,
      {
        kvDtype,
        pageSize: 16,
        numPages,
        maxNumSeqs: 1,
        maxNumBatchedTokens: maxLen,
        maxPagesPerSeq: numPages,
        maxLogprobs: 0,
        maxLogitEdits: 0,
        numThreads: 0,
      },
      kvScales,
      kMean,
    );
    // Pages in reverse: nothing may depend on their order.
    this.#engine.buffer.pageTable.set(Array.from({ length: numPages }, (_, i) => numPages - 1 - i));
  }

  /** Appends tokens in one step and returns the logits after the last one. */
  feed(tokens: readonly number[]): Float32Array {
    this.step(tokens);
    return this.#engine.logits(0);
  }

  /** Appends tokens in one step and returns the greedy token after the last one. */
  step(tokens: readonly number[]): number {
    const { buffer } = this.#engine;
    this.#length += tokens.length;
    buffer.header.set([1, tokens.length, 0]);
    buffer.tokens.set(tokens);
    buffer.queryLen[0] = tokens.length;
    buffer.seqLen[0] = this.#length;
    buffer.sample[0] = 1;
    buffer.topP[0] = 1;
    buffer.repetitionPenalty[0] = 1;
    buffer.numLogprobs[0] = -1;
    this.#engine.step();
    return buffer.sampled[0]!;
  }

  /** The scales in use: `[numLayers][2][numKvHeads]`. */
  get kvScales(): Float32Array {
    return this.#engine.kvScales();
  }

  /** Greedy continuation: `count` tokens after the logits given. */
  greedy(logits: Float32Array, count: number): number[] {
    const tokens: number[] = [];
    for (let i = 0; i < count; i++) {
      tokens.push(argmax(logits));
      if (i + 1 < count) logits = this.feed(tokens.slice(-1));
    }
    return tokens;
  }

  [Symbol.dispose](): void {
    this.#engine.close();
  }
}

export function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}

/** Natural log-probabilities in f64. */
export function logSoftmax(logits: Float32Array): Float64Array {
  const max = logits[argmax(logits)]!;
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - max);
  const lse = max + Math.log(sum);
  return Float64Array.from(logits, (logit) => logit - lse);
}

/** KL(p || q) in nats from log-probabilities. */
export function klDivergence(p: Float64Array, q: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < p.length; i++) sum += Math.exp(p[i]!) * (p[i]! - q[i]!);
  return sum;
}
