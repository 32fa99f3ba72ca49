/**
 * Starts an engine: decides the settings, starts the Worker and waits until the model is loaded.
 *
 * @module
 */

import type { ProgressListener } from "../models/progress.ts";
import { MAX_KV_DTYPES } from "../ffi/enums.ts";
import type { KvKind } from "../ffi/native_engine.ts";
import { kvScaleTable, readKvScaleFile } from "../models/kv_scales.ts";
import type { ModelConfig, ModelFiles } from "../models/types.ts";
import { Counters } from "./counters.ts";
import { EngineClient } from "./engine_client.ts";
import { EngineError } from "./errors.ts";
import { chooseKvCacheDtype, type KvCacheDtypeName, type KvCacheMemory } from "./kv_cache_plan.ts";
import { type SkippedLayer, skippedLayers } from "./kv_cache_plan.ts";
import { kvBytesPerToken } from "./kv_bytes.ts";
import { choosePageSizes } from "./kv_page_sizes.ts";
import { KV_SCALE_TOKENS } from "./kv_scale_window.ts";
import { chooseKvScales, nativeKMean, nativeKvScales, takesKMean, takesKvScales } from "./kv_scales.ts";
import type { KvVariant } from "./kv_comparison.ts";
import { kvVariant, possibleKvDtypes } from "./kv_variants.ts";
import { MailboxSender } from "./mailbox.ts";
import type { EngineMessage, EngineSettings, StartMessage, WorkerMessage } from "./messages.ts";
import type { Engine, KvCacheDtype, Quantization } from "./types.ts";

export interface StartEngineOptions {
  readonly model: ModelFiles;
  /** "auto" is the model's dtype. */
  readonly kvCacheDtype: KvCacheDtypeName;
  /**
   * Dtypes that requests may choose by `kvCacheDtype`, at most 8; the first is the default, and `kvCacheDtype` is "auto" or
   * the same. Null (the default): only `kvCacheDtype`.
   */
  readonly kvCacheDtypes?: readonly KvCacheDtypeName[] | null;
  /** Null (the default): what `gpuMemoryUtilization` leaves, or a quarter of what is free on a CPU. */
  readonly kvCacheMemory?: KvCacheMemory | null;
  /** Bytes of host memory for pages that the cache has no room for. Null (the default): none. */
  readonly kvOffloadMemory?: number | null;
  /** Of a GPU's memory, above 0 and at most 1: weights, scratch and KV cache together. Default 0.9. */
  readonly gpuMemoryUtilization?: number;
  /** What a GPU makes of the layers' matrices. Default "none". */
  readonly quantization?: Quantization;
  /** Layers that keep the model's dtype. Default none. */
  readonly kvCacheDtypeSkipLayers?: readonly SkippedLayer[];
  /**
   * Set the FP8 cache's scales from the first tokens' values where no file brings any; an error with another dtype. Default
   * false.
   */
  readonly calculateKvScales?: boolean;
  /** From how many tokens, at least. Default {@linkcode KV_SCALE_TOKENS}. */
  readonly calculateKvScalesTokens?: number;
  /** Count magnitudes, saturated elements and errors of what the cache stores. Default false. */
  readonly kvCacheStats?: boolean;
  /** Compare checksums of shared pages, which is slow: an engine in which one changes fails. Default false. */
  readonly checkPages?: boolean;
  /** A file of scales for an FP8 cache (safetensors or JSON), before the checkpoint's own. Default none. */
  readonly kvScales?: string | null;
  /** Missing or unusable KV scales are an error rather than a warning. Default false. */
  readonly strictKvScales?: boolean;
  /** Longest sequence, prompt and output together; the model's own limit if left out. */
  readonly maxModelLen?: number | null;
  /** Sequences of one step. Null (the default): the device's. */
  readonly maxNumSeqs?: number | null;
  /**
   * Tokens of one step; raised to maxNumSeqs where it is less, so that every decode fits. Null (the default): the
   * device's, and on a GPU fewer in steps that decode.
   */
  readonly maxNumBatchedTokens?: number | null;
  /** 16, 32 or 64. */
  readonly pageSize: number;
  /** Compute equal beginnings of prompts once. Default true. */
  readonly enablePrefixCaching?: boolean;
  /** Most tokens guessed for a sequence in one step. Default: 4 on a CPU, 0 (none) on a GPU. */
  readonly numSpeculativeTokens?: number | null;
  /** Tokens of a text's end that must have stood in it before, for what followed to be guessed. Default 3. */
  readonly promptLookupMin?: number;
  /** 0 = physical cores. */
  readonly numThreads: number;
  /** Requests that may wait. */
  readonly maxQueuedRequests: number;
  readonly device?: EngineSettings["device"];
  /** Path of the native library; looked up if left out. */
  readonly library?: string;
  /** Called as tensors are loaded. */
  readonly onProgress?: ProgressListener;
}

/** Largest `logprobs`; OpenAI's limit. */
const MAX_LOGPROBS = 20;

/**
 * Starts an engine in a Worker of its own.
 *
 * @throws {RangeError} A setting is out of its range.
 * @throws {EngineError} The library, the model or the KV cache could not be set up; the message says why.
 */
export async function startEngine(options: StartEngineOptions): Promise<Engine> {
  const { model, onProgress, maxQueuedRequests } = options;
  const { settings, warning } = engineSettings(options);
  if (warning !== null) console.warn(warning);
  const counters = new Counters();
  const mailbox = new MailboxSender<EngineMessage>();
  const worker = new Worker(new URL("./engine_worker.ts", import.meta.url), { type: "module", name: "octavo-engine" });
  const { promise, resolve, reject } = Promise.withResolvers<Engine>();
  const fail = (message: string) => {
    worker.terminate();
    mailbox.close();
    reject(new EngineError(message));
  };
  worker.onerror = (event) => {
    event.preventDefault();
    fail(event.message);
  };
  worker.onmessage = ({ data }: MessageEvent<WorkerMessage>) => {
    if (data.type === "progress") {
      const { doneBytes, totalBytes } = data;
      onProgress?.({ label: `Loading ${model.name}`, doneBytes, totalBytes });
    } else if (data.type === "failed") {
      fail(data.message);
    } else if (data.type === "ready") {
      const { info, limits } = data;
      const comparable = (dtype: string | null) => comparedVariant(model, settings, info.device.backend, dtype);
      resolve(
        new EngineClient({ worker, mailbox, counters, info, limits, maxQueuedRequests, kvVariant: comparable }),
      );
    }
  };
  const start: StartMessage = {
    model: {
      paths: model.paths,
      config: model.config,
      tensors: model.tensors,
      tokenTable: model.tokenizer.table,
      eosTokenIds: model.eosTokenIds,
    },
    settings,
    mailbox: mailbox.receivingEnd,
    counters: counters.memory,
  };
  worker.postMessage(start, [mailbox.receivingEnd.port]);
  return await promise;
}

/** A cache to compare: of an engine's own dtype with its scales and means, of another with what the checkpoint brings. */
function comparedVariant(
  model: ModelFiles,
  { kvKinds, kvScales, kMeans }: EngineSettings,
  backend: string,
  name: string | null,
): KvVariant {
  const wanted = name === "fp8" ? "fp8_e4m3" : name ?? (backend === "cpu" ? "float32" : model.config.dtype);
  const possible = possibleKvDtypes(model, backend);
  const dtype = possible.find((one) => one === wanted);
  if (dtype === undefined) throw new RangeError(`expected one of fp8, ${possible.join(", ")}, received "${name}"`);
  const variant = kvVariant(model, dtype);
  if (!kvKinds.some(({ kvDtype }) => kvDtype === dtype)) return variant;
  return {
    ...variant,
    scales: takesKvScales(variant.dtype) ? nativeKvScales(kvScales, model.config.numKvHeads) : null,
    kMean: nativeKMean(kMeans, model.config),
  };
}

/** Settings with everything decided that needs no device. @throws {RangeError} One is out of its range. */
function engineSettings(options: StartEngineOptions): { settings: EngineSettings; warning: string | null } {
  const { config, kvCache } = options.model;
  const { dtypes, reason } = chooseKvCacheDtypes(options);
  const dtype = dtypes[0]!;
  const maxModelLen = options.maxModelLen ?? config.maxModelLen;
  const { maxNumSeqs = null, maxNumBatchedTokens = null, pageSize, numThreads, calculateKvScales = false } = options;
  const { calculateKvScalesTokens: kvScaleTokens = KV_SCALE_TOKENS } = options;
  const { numSpeculativeTokens = null, promptLookupMin = 3 } = options;
  const { gpuMemoryUtilization = 0.9, quantization = "none" } = options;
  const skipped = skippedLayers(options.kvCacheDtypeSkipLayers ?? [], config.layers);
  const isSkipped = (layer: number) => skipped.includes(layer);
  if (calculateKvScales && !dtypes.some(takesKvScales)) {
    throw new RangeError(`calculate_kv_scales needs kv_cache_dtype fp8_e4m3 or fp8_e5m2, found ${dtypes.join(", ")}`);
  }
  const layerDtypes = (dtype: KvCacheDtype) => config.layers.map((_, layer) => isSkipped(layer) ? config.dtype : dtype);
  const scaled = dtypes.find((dtype) => dtype === "fp8_e5m2") ?? dtypes.find(takesKvScales);
  const rotated = dtypes.find(takesKMean);
  const scales = chooseKvScales({
    checkpoint: kvCache,
    file: options.kvScales ? kvScaleTable(readKvScaleFile(options.kvScales), config, "file") : null,
    layerDtypes: layerDtypes(scaled ?? rotated ?? dtype),
    meanDtypes: layerDtypes(rotated ?? dtype),
    calculate: calculateKvScales,
    strict: options.strictKvScales ?? false,
  });
  checkRange("calculate_kv_scales_tokens", kvScaleTokens, 1, 2 ** 30);
  checkRange("max_model_len", maxModelLen, 2, config.maxModelLen);
  if (maxNumSeqs !== null) checkRange("max_num_seqs", maxNumSeqs, 1, 4096);
  if (maxNumBatchedTokens !== null) checkRange("max_num_batched_tokens", maxNumBatchedTokens, 1, 2 ** 20);
  if (numSpeculativeTokens !== null) checkRange("num_speculative_tokens", numSpeculativeTokens, 0, 32);
  checkRange("prompt_lookup_min", promptLookupMin, 1, 32);
  checkRange("num_threads", numThreads, 0, 1024);
  if (![16, 32, 64].includes(pageSize)) throw new RangeError(`page_size must be 16, 32 or 64, received ${pageSize}`);
  if ((options.kvOffloadMemory ?? 0) > 0 && options.enablePrefixCaching === false) {
    throw new RangeError("kv_offload_memory needs prefix caching, found enable_prefix_caching false");
  }
  if (!(gpuMemoryUtilization > 0 && gpuMemoryUtilization <= 1)) {
    throw new RangeError(`gpu_memory_utilization must be above 0 and at most 1, received ${gpuMemoryUtilization}`);
  }
  const kvKinds = chooseKvKinds(dtypes, layerDtypes, { config, pageSize });
  const settings: EngineSettings = {
    device: options.device ?? "auto",
    library: options.library ?? null,
    kvCacheDtype: dtype,
    kvKinds,
    kvCacheDtypeReason: skipped.length === 0 ? reason : `${reason}; ${config.dtype} in layers ${skipped.join(", ")}`,
    layerKvDtypes: config.layers.map((_, layer) => isSkipped(layer) ? config.dtype : null),
    kvCacheMemory: options.kvCacheMemory ?? null,
    kvOffloadBytes: options.kvOffloadMemory ?? 0,
    gpuMemoryUtilization,
    quantization,
    kvScaleTokens: scales.calculate ? kvScaleTokens : null,
    kvCacheStats: options.kvCacheStats ?? false,
    checkPages: options.checkPages ?? false,
    kvScales: scales.layers,
    kMeans: scales.means,
    maxModelLen,
    maxNumSeqs,
    maxNumBatchedTokens,
    enablePrefixCaching: options.enablePrefixCaching ?? true,
    numSpeculativeTokens,
    promptLookupMin,
    maxLogprobs: Math.min(MAX_LOGPROBS, config.vocabSize),
    numThreads,
  };
  return { settings, warning: scales.warning };
}

/** What requests may choose, the default first. @throws {RangeError} A name is not known, or said twice. */
function chooseKvCacheDtypes(options: StartEngineOptions): { dtypes: KvCacheDtype[]; reason: string } {
  const { kvCacheDtype, kvCacheDtypes, model: { config, kvCache } } = options;
  const names = kvCacheDtypes ?? [kvCacheDtype];
  const chosen = names.map((name) => chooseKvCacheDtype(name, config.dtype, kvCache.fp8AskedBy));
  const dtypes = chosen.map(({ dtype }) => dtype);
  const twice = dtypes.find((dtype, i) => dtypes.indexOf(dtype) !== i);
  if (twice !== undefined) throw new RangeError(`kv_cache_dtypes must name each dtype once, found ${twice} twice`);
  if (dtypes.length === 0 || dtypes.length > MAX_KV_DTYPES) {
    throw new RangeError(`kv_cache_dtypes must name 1 to ${MAX_KV_DTYPES} dtypes, received ${dtypes.length}`);
  }
  if (kvCacheDtype !== "auto" && chooseKvCacheDtype(kvCacheDtype, config.dtype).dtype !== dtypes[0]) {
    throw new RangeError(`kv_cache_dtype must be the first of kv_cache_dtypes, ${dtypes[0]}, found ${kvCacheDtype}`);
  }
  const isListed = kvCacheDtypes !== undefined && kvCacheDtypes !== null && names[0] !== "auto";
  return { dtypes, reason: isListed ? "the first of --kv-cache-dtypes" : chosen[0]!.reason };
}

/** Page sizes for dtypes that share pages. @throws {RangeError} One does not take the model's head dimension. */
function chooseKvKinds(
  dtypes: readonly KvCacheDtype[],
  layerDtypes: (dtype: KvCacheDtype) => readonly KvCacheDtype[],
  { config, pageSize }: { config: ModelConfig; pageSize: number },
): KvKind[] {
  if (dtypes.length === 1) return [{ kvDtype: dtypes[0]!, pageSize }];
  const bytes = dtypes.map((dtype) => {
    const bytesPerToken = kvBytesPerToken(config, layerDtypes(dtype));
    if (bytesPerToken !== null) return bytesPerToken;
    throw new RangeError(`kv_cache_dtype ${dtype} does not take this model's head_dim ${config.headDim}`);
  });
  const { pageSizes } = choosePageSizes(bytes, pageSize);
  return dtypes.map((kvDtype, i) => ({ kvDtype, pageSize: pageSizes[i]! }));
}

function checkRange(name: string, value: number, low: number, high: number): void {
  if (Number.isInteger(value) && value >= low && value <= high) return;
  throw new RangeError(`${name} must be an integer from ${low} to ${high}, received ${value}`);
}
