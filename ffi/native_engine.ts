/**
 * `octavo_engine`: KV pages and the forward pass, run step by step on a {@linkcode StepBuffer}.
 *
 * @module
 */

import { Handle } from "./_handle.ts";
import { KV_DTYPE, KV_STATS_MODE, MAX_KV_DTYPES, STATUS } from "./enums.ts";
import { KV_STATS_BINS, KV_STATS_FIELDS, type KvHistograms, type KvStats } from "./kv_stats.ts";
import { NativeError } from "./library.ts";
import type { NativeModel, NativeModelConfig } from "./native_model.ts";
import { StepBuffer } from "./step_buffer.ts";
import { ENGINE_CONFIG, TRANSFER_STATS } from "./structs.ts";

/** A KV dtype, and how many tokens a page holds of it. */
export interface KvKind {
  readonly kvDtype: keyof typeof KV_DTYPE;
  /** 16, 32 or 64. */
  readonly pageSize: number;
}

/** `octavo_engine_config` */
export interface NativeEngineConfig {
  readonly kvDtype: keyof typeof KV_DTYPE;
  /** Tokens of a page: 16, 32 or 64. */
  readonly pageSize: number;
  readonly numPages: number;
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
  /** Tokens that one step can sample. Default: maxNumSeqs. */
  readonly maxSamples?: number;
  readonly maxPagesPerSeq: number;
  readonly maxLogprobs: number;
  readonly maxLogitEdits: number;
  /** Token masks of one step. */
  readonly maxTokenMasks?: number;
  /** 32-bit words of a mask: ceil(vocabSize / 32), or 0 where there are none. */
  readonly tokenMaskWords?: number;
  /** Tokens that one step can score, 0 .. maxNumBatchedTokens. */
  readonly maxScores?: number;
  /** 0 = physical cores. */
  readonly numThreads: number;
  /**
   * The first step sets one K and one V scale a layer from its own values, {@linkcode NativeEngine.freezeKvScales} from all
   * steps' until then (FP8 without kvScales only).
   */
  readonly calculateKvScales?: boolean;
  /** What is counted of K and V; default "off". */
  readonly kvStats?: keyof typeof KV_STATS_MODE;
  /** What sequences may be stored as beside `kvDtype`, at most 7: `kvIndex` 1, 2, ... of a step. Default none. */
  readonly moreKvDtypes?: readonly KvKind[];
  /** Pages of host memory that pages can be saved to. Default 0. */
  readonly numHostPages?: number;
}

/** `octavo_transfer_stats`: what {@linkcode NativeEngine.savePages} and `restorePages` have done so far. */
export interface TransferStats {
  /** Calls, and those whose copies have ended; they end in order. */
  readonly numSubmitted: number;
  readonly numFinished: number;
  readonly savedBytes: number;
  readonly savedSeconds: number;
  readonly restoredBytes: number;
  readonly restoredSeconds: number;
}

function encodeConfig(config: NativeEngineConfig): Uint8Array<ArrayBuffer> {
  const more = config.moreKvDtypes ?? [];
  const fill = (value: (kind: KvKind) => number) =>
    Array.from({ length: MAX_KV_DTYPES - 1 }, (_, i) => more[i] === undefined ? 0 : value(more[i]));
  return ENGINE_CONFIG.encode({
    kv_dtype: KV_DTYPE[config.kvDtype],
    page_size: config.pageSize,
    num_pages: config.numPages,
    max_num_seqs: config.maxNumSeqs,
    max_num_batched_tokens: config.maxNumBatchedTokens,
    max_samples: config.maxSamples ?? config.maxNumSeqs,
    max_pages_per_seq: config.maxPagesPerSeq,
    max_logprobs: config.maxLogprobs,
    max_logit_edits: config.maxLogitEdits,
    max_token_masks: config.maxTokenMasks ?? 0,
    token_mask_words: config.tokenMaskWords ?? 0,
    max_scores: config.maxScores ?? 0,
    num_threads: config.numThreads,
    calculate_kv_scales: config.calculateKvScales ? 1 : 0,
    kv_stats: KV_STATS_MODE[config.kvStats ?? "off"],
    num_host_pages: config.numHostPages ?? 0,
    num_more_kv_dtypes: more.length,
    more_kv_dtypes: fill(({ kvDtype }) => KV_DTYPE[kvDtype]),
    more_page_sizes: fill(({ pageSize }) => pageSize),
  });
}

/** An engine on a finished model. */
export class NativeEngine extends Handle {
  /** For {@linkcode submit} and {@linkcode finish}, in turns: one is written while the other's step runs. */
  readonly buffers: readonly [StepBuffer, StepBuffer];
  readonly #model: NativeModelConfig;
  readonly #pageBytes: number;
  readonly #stats = new Uint8Array(TRANSFER_STATS.sizeBytes);

  /**
   * @param kvScales `[numLayers][2][numKvHeads]`, real = stored x scale; null = 1.
   * @param kMean `[numLayers][numKvHeads][headDim]`, what rotated formats take off K; null = 0.
   * @throws {RangeError} kvScales or kMean has another length.
   * @throws {NativeError} A setting is out of its range, or there is not enough memory.
   */
  constructor(
    model: NativeModel,
    config: NativeEngineConfig,
    kvScales: Float32Array | null = null,
    kMean: Float32Array | null = null,
  ) {
    const { library } = model;
    const numScales = model.config.numLayers * 2 * model.config.numKvHeads;
    if (kvScales !== null && kvScales.length !== numScales) {
      throw new RangeError(`Cannot open an engine: expected ${numScales} KV scales, received ${kvScales.length}`);
    }
    const numMeans = model.config.numLayers * model.config.numKvHeads * model.config.headDim;
    if (kMean !== null && kMean.length !== numMeans) {
      throw new RangeError(`Cannot open an engine: expected ${numMeans} means of K, received ${kMean.length}`);
    }
    const encoded = encodeConfig(config);
    const buffers = [new StepBuffer(library, encoded, config), new StepBuffer(library, encoded, config)] as const;
    const pointer = library.symbols.octavo_engine_create(
      model.nativePointer,
      encoded,
      kvScales as BufferSource | null,
      kMean as BufferSource | null,
    );
    if (pointer === null) throw new NativeError(library.lastError(), null);
    super(library, "engine", pointer, (p) => library.symbols.octavo_engine_close(p));
    this.buffers = buffers;
    this.#model = model.config;
    const kinds = [config, ...config.moreKvDtypes ?? []];
    this.#pageBytes = Math.max(...kinds.map(({ kvDtype, pageSize }) => model.kvPageBytes(kvDtype, pageSize)));
  }

  /**
   * Bytes of the device's memory that an engine takes beside its pages, whose number makes no difference.
   *
   * @throws {NativeError} A setting is out of its range.
   */
  static scratchBytes(model: NativeModel, config: NativeEngineConfig): number {
    const bytes = model.library.symbols.octavo_engine_scratch_bytes(model.nativePointer, encodeConfig(config));
    if (bytes === 0) throw new NativeError(model.library.lastError(), STATUS.INVALID_ARGUMENT);
    return bytes;
  }

  /** The KV scales in use: `[numLayers][2][numKvHeads]`, K then V. */
  kvScales(): Float32Array<ArrayBuffer> {
    const scales = new Float32Array(this.#model.numLayers * 2 * this.#model.numKvHeads);
    this.library.check(this.library.symbols.octavo_engine_kv_scales(this.pointer, scales));
    return scales;
  }

  /**
   * Sets the calculated KV scales for good. Where they differ from before, what the pages hold must not be read any more.
   *
   * @throws {NativeError} None are being calculated, no step has run, or one is under way.
   */
  freezeKvScales(): void {
    this.library.check(this.library.symbols.octavo_engine_freeze_kv_scales(this.pointer));
  }

  /** What has been counted; waits for the steps under way. @throws {NativeError} kvStats is not "errors". */
  kvStats(): KvStats {
    const stats = new Float64Array(this.#model.numLayers * 2 * this.#model.numKvHeads * KV_STATS_FIELDS);
    const numTokens = new Float64Array(1);
    this.library.check(this.library.symbols.octavo_engine_kv_stats(this.pointer, stats, numTokens));
    return { stats, numTokens: numTokens[0]! };
  }

  /** What has been counted. @throws {NativeError} kvStats is not "histograms". */
  kvHistograms(): KvHistograms {
    const numRows = this.#model.numLayers * 2 * this.#model.numKvHeads;
    const absmax = new Float32Array(numRows);
    const histogram = new Float64Array(numRows * KV_STATS_BINS);
    const kSum = new Float64Array(this.#model.numLayers * this.#model.numKvHeads * this.#model.headDim);
    this.library.check(this.library.symbols.octavo_engine_kv_histograms(this.pointer, absmax, histogram, kSum));
    return { absmax, histogram, kSum };
  }

  /** The first of {@linkcode buffers}: written before and read after every {@linkcode step}. */
  get buffer(): StepBuffer {
    return this.buffers[0];
  }

  /** Runs one step on {@linkcode buffer}. @throws {NativeError} The buffer is not valid, or the device failed. */
  step(): void {
    const { bytes } = this.buffer;
    this.library.check(this.library.symbols.octavo_step(this.pointer, bytes, bytes.length));
  }

  /**
   * Starts a step; on a GPU it runs on after this returns. Its tokens may name those of the step submitted before by
   * `-(row + 1)`. The buffer is the library's until {@linkcode finish}.
   *
   * @param buffer One of {@linkcode buffers} that is not under way.
   * @throws {NativeError} The buffer is not valid, two steps are under way, or the device failed.
   */
  submit({ bytes }: StepBuffer): void {
    this.library.check(this.library.symbols.octavo_step_submit(this.pointer, bytes, bytes.length));
  }

  /**
   * Waits for the oldest step under way and fills its output tables.
   *
   * @param buffer That step's.
   * @throws {NativeError} It is another step's buffer, or the device failed.
   */
  finish({ bytes }: StepBuffer): void {
    this.library.check(this.library.symbols.octavo_step_finish(this.pointer, bytes));
  }

  /**
   * Copies whole pages to host memory: `pages[i]` to host page `hostPages[i]`. On a GPU the copies run on after this
   * returns, beside the steps under way, which must not use these pages; later steps wait for them.
   *
   * @throws {NativeError} There is no such page, or the device failed.
   */
  savePages(pages: Int32Array<ArrayBuffer>, hostPages: Int32Array<ArrayBuffer>): void {
    this.library.check(this.library.symbols.octavo_engine_save_pages(this.pointer, pages, hostPages, pages.length));
  }

  /** Copies host page `hostPages[i]` to `pages[i]`, as {@linkcode savePages}. */
  restorePages(pages: Int32Array<ArrayBuffer>, hostPages: Int32Array<ArrayBuffer>): void {
    this.library.check(this.library.symbols.octavo_engine_restore_pages(this.pointer, pages, hostPages, pages.length));
  }

  /** Never waits. */
  transferStats(): TransferStats {
    this.library.check(this.library.symbols.octavo_engine_transfer_stats(this.pointer, this.#stats));
    const stats = TRANSFER_STATS.decode(this.#stats);
    return {
      numSubmitted: stats.num_submitted,
      numFinished: stats.num_finished,
      savedBytes: stats.saved_bytes,
      savedSeconds: stats.saved_seconds,
      restoredBytes: stats.restored_bytes,
      restoredSeconds: stats.restored_seconds,
    };
  }

  /** What a host page holds once all transfers have ended, for tests and checks. */
  hostPage(hostPage: number): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(this.#pageBytes);
    const { symbols } = this.library;
    this.library.check(symbols.octavo_engine_host_page(this.pointer, hostPage, bytes, bytes.length));
    return bytes;
  }

  /** Of all bytes of a page after the steps and transfers submitted so far, for checks: equal for equal bytes. */
  pageChecksum(page: number): bigint {
    const checksum = new BigUint64Array(1);
    this.library.check(this.library.symbols.octavo_engine_page_checksum(this.pointer, page, checksum));
    return checksum[0]!;
  }

  /**
   * Raw logits of a row of the step submitted last, for tests and accuracy reports.
   *
   * @param logits `[vocabSize]`, filled; a new array if left out.
   */
  logits(row: number, logits = new Float32Array(this.#model.vocabSize)): Float32Array<ArrayBuffer> {
    if (logits.length !== this.#model.vocabSize) {
      throw new RangeError(`Cannot read ${this.#model.vocabSize} logits into ${logits.length} floats`);
    }
    this.library.check(this.library.symbols.octavo_engine_logits(this.pointer, row, logits));
    return logits;
  }
}
