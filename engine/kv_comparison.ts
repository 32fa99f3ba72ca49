/**
 * The same tokens through several KV caches of one model, side by side: what each makes of the next token, beside what the
 * first does.
 *
 * @module
 */

import { compareLogits, type Comparison } from "../ffi/compare_logits.ts";
import type { Library } from "../ffi/library.ts";
import { NativeEngine } from "../ffi/native_engine.ts";
import type { NativeModel } from "../ffi/native_model.ts";
import type { KvCacheDtype } from "./types.ts";

/** A way to store the KV cache. */
export interface KvVariant {
  /** Names it in reports; unique among those compared. */
  readonly name: string;
  readonly dtype: KvCacheDtype;
  /** `[numLayers][2][numKvHeads]`; null = 1. */
  readonly scales: Float32Array | null;
  /** `[numLayers][numKvHeads][headDim]`, taken off K by rotated formats; null = nothing. */
  readonly kMean: Float32Array | null;
}

export interface KvComparisonOptions {
  /** At least one; the first is the reference. */
  readonly variants: readonly KvVariant[];
  /** Longest text, in tokens. */
  readonly maxTokens: number;
  /** 0 = physical cores. */
  readonly numThreads: number;
}

const PAGE_SIZE = 16;
/** Tokens of one step that only fills the caches. */
const CHUNK = 256;
/** Tokens of one that is compared: so many rows of logits are held, two of each here and one in every engine. */
const ROWS = 32;

/**
 * One text at a time, in an engine for each variant. Memory is bounded by the variants' caches of `maxTokens` tokens and
 * 32 rows of logits each.
 */
export class KvComparison implements Disposable {
  readonly variants: readonly KvVariant[];
  readonly #library: Library;
  readonly #engines: NativeEngine[] = [];
  readonly #vocabSize: number;
  readonly #numThreads: number;
  readonly #reference: Float32Array<ArrayBuffer>;
  readonly #logits: Float32Array<ArrayBuffer>;
  #length = 0;

  /** @throws {NativeError} A variant does not fit the model, or there is not enough memory; the message names it. */
  constructor(model: NativeModel, { variants, maxTokens, numThreads }: KvComparisonOptions) {
    this.variants = variants;
    this.#library = model.library;
    this.#vocabSize = model.config.vocabSize;
    this.#numThreads = numThreads;
    this.#reference = new Float32Array(ROWS * this.#vocabSize);
    this.#logits = new Float32Array(ROWS * this.#vocabSize);
    try {
      for (const variant of variants) this.#engines.push(openEngine(model, variant, { maxTokens, numThreads }));
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Tokens in the caches. */
  get length(): number {
    return this.#length;
  }

  /** Forgets the tokens from `length` on. */
  truncate(length: number): void {
    if (length > this.#length) throw new RangeError(`Cannot truncate to ${length} tokens: there are ${this.#length}`);
    this.#length = length;
  }

  /** Appends tokens without comparing what follows them. */
  fill(tokens: readonly number[]): void {
    for (let begin = 0; begin < tokens.length; begin += CHUNK) {
      const chunk = tokens.slice(begin, begin + CHUNK);
      for (const engine of this.#engines) step(engine, this.#length, chunk, 0);
      this.#length += chunk.length;
    }
  }

  /**
   * Appends tokens and compares each variant's next-token distribution after each of them with the reference's.
   *
   * @param targets For each token the one to give log-probabilities of, or -1: the reference's most likely one.
   * @returns For each variant but the first, an entry a token.
   * @throws {NativeError} Logits hold NaN or infinity: the model's weights are broken.
   */
  compare(tokens: readonly number[], targets: readonly number[]): Comparison[][] {
    const all: Comparison[][] = this.variants.slice(1).map(() => []);
    for (let begin = 0; begin < tokens.length; begin += ROWS) {
      const chunk = tokens.slice(begin, begin + ROWS);
      for (const engine of this.#engines) step(engine, this.#length, chunk, chunk.length);
      this.#length += chunk.length;
      const rows = Int32Array.from(targets.slice(begin, begin + chunk.length));
      this.#compareRows(rows).forEach((comparisons, i) => all[i]!.push(...comparisons));
    }
    return all;
  }

  /**
   * Decodes greedily in one variant's cache, which then holds other tokens than the others' from `start` on: truncate to
   * `start` or less afterwards.
   *
   * @param start Position of `token`, at most {@linkcode length}.
   * @returns `count` tokens after it.
   */
  generate(variant: number, { start, token, count }: { start: number; token: number; count: number }): number[] {
    const engine = this.#engines[variant]!;
    const generated: number[] = [];
    for (let last = token; generated.length < count; generated.push(last)) {
      step(engine, start + generated.length, [last], 1);
      last = engine.buffer.sampled[0]!;
      if (last < 0) {
        throw new RangeError(`Cannot decode with a cache of ${this.variants[variant]!.name}: no logit is a number`);
      }
    }
    return generated;
  }

  close(): void {
    for (const engine of this.#engines) engine.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Compares what follows the tokens of the last step. */
  #compareRows(targets: Int32Array<ArrayBuffer>): Comparison[][] {
    const [reference, logits, vocabSize, numThreads] = [
      this.#reference,
      this.#logits,
      this.#vocabSize,
      this.#numThreads,
    ];
    const read = (engine: NativeEngine, all: Float32Array<ArrayBuffer>) =>
      targets.forEach((_, row) => engine.logits(row, all.subarray(row * vocabSize, (row + 1) * vocabSize)));
    const [referenceEngine, ...others] = this.#engines;
    read(referenceEngine!, reference);
    return others.map((engine) => {
      read(engine, logits);
      return compareLogits(this.#library, { reference, logits, vocabSize, targets, numThreads });
    });
  }
}

function openEngine(
  model: NativeModel,
  { name, dtype, scales, kMean }: KvVariant,
  { maxTokens, numThreads }: { maxTokens: number; numThreads: number },
): NativeEngine {
  const numPages = Math.ceil(maxTokens / PAGE_SIZE);
  const config = {
    kvDtype: dtype,
    pageSize: PAGE_SIZE,
    numPages,
    maxNumSeqs: 1,
    maxSamples: ROWS,
    maxNumBatchedTokens: CHUNK,
    maxPagesPerSeq: numPages,
    maxLogprobs: 0,
    maxLogitEdits: 0,
    numThreads,
  };
  try {
    const engine = new NativeEngine(model, config, scales, kMean);
    for (let page = 0; page < numPages; page++) engine.buffer.pageTable[page] = page;
    return engine;
  } catch (error) {
    (error as Error).message = `Cannot open a KV cache of ${name}: ${(error as Error).message}`;
    throw error;
  }
}

/** Runs tokens behind `cached` others in an engine's only sequence, and gives logits after the last `sample` of them. */
function step(engine: NativeEngine, cached: number, tokens: readonly number[], sample: number): void {
  const { buffer } = engine;
  buffer.header.fill(0).set([1, tokens.length]);
  buffer.tokens.set(tokens);
  buffer.queryLen[0] = tokens.length;
  buffer.seqLen[0] = cached + tokens.length;
  buffer.sample[0] = sample;
  buffer.temperature[0] = 0;
  buffer.topP[0] = 1;
  buffer.repetitionPenalty[0] = 1;
  buffer.numLogprobs[0] = -1;
  engine.step();
}
