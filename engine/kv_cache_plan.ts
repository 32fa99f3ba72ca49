/**
 * The KV cache's dtype and size, from what the user asked for and what there is.
 *
 * @module
 */

import type { KvKind } from "../ffi/native_engine.ts";
import type { LayerConfig, ModelConfig } from "../models/types.ts";
import type { KvCacheDtype } from "./types.ts";

/** What a user may write for the KV cache's dtype. */
export type KvCacheDtypeName = KvCacheDtype | "auto" | "fp8";

/** The names of {@linkcode KvCacheDtypeName}, for option lists. */
export const KV_CACHE_DTYPE_NAMES: readonly KvCacheDtypeName[] = [
  "auto",
  "bfloat16",
  "float16",
  "float32",
  "fp8",
  "fp8_e4m3",
  "fp8_e5m2",
  "fp8_per_token_head",
  "int8",
  "int8_per_token_head",
  "k8v4",
  "int4",
];

/**
 * Decides a dtype and says why.
 *
 * @param fp8AskedBy What in the checkpoint asks for an FP8 cache; "auto" follows it.
 * @throws {RangeError} The name is not known.
 */
export function chooseKvCacheDtype(
  name: KvCacheDtypeName,
  modelDtype: ModelConfig["dtype"],
  fp8AskedBy: string | null = null,
): { dtype: KvCacheDtype; reason: string } {
  if (!KV_CACHE_DTYPE_NAMES.includes(name)) {
    throw new RangeError(`kv_cache_dtype must be one of ${KV_CACHE_DTYPE_NAMES.join(", ")}, received "${name}"`);
  }
  if (name === "auto" && fp8AskedBy !== null) return { dtype: "fp8_e4m3", reason: `asked for by ${fp8AskedBy}` };
  if (name === "auto") return { dtype: modelDtype, reason: "the model's own dtype" };
  return { dtype: name === "fp8" ? "fp8_e4m3" : name, reason: "given by --kv-cache-dtype" };
}

/** Layers to leave out of a KV dtype: 0-based indices, or all with a sliding window. */
export type SkippedLayer = number | "sliding_window";

/** Which layers {@linkcode SkippedLayer}s name, in order. @throws {RangeError} The model has no such layer. */
export function skippedLayers(skipped: readonly SkippedLayer[], layers: readonly LayerConfig[]): number[] {
  const indices = skipped.flatMap((name) => {
    if (name === "sliding_window") return layers.flatMap((layer, index) => layer.slidingWindow > 0 ? [index] : []);
    if (Number.isInteger(name) && name >= 0 && name < layers.length) return [name];
    throw new RangeError(`kv_cache_dtype_skip_layers must name layers 0 to ${layers.length - 1}, received ${name}`);
  });
  return [...new Set(indices)].sort((a, b) => a - b);
}

/** Memory for the KV cache: bytes, or a fraction (above 0, at most 1) of what is free once the weights are loaded. */
export type KvCacheMemory = { readonly bytes: number } | { readonly fraction: number };

/** Slots of the whole cache are int32 (octavo.h). */
const MAX_SLOTS = 2 ** 31 - 1;

/** What of the memory a CPU's KV cache takes where nothing is asked for. */
const CPU_FRACTION = 0.25;

/** The memory of a device once the weights are loaded. */
export interface DeviceMemory {
  /** "cpu", or a GPU's. */
  readonly backend: string;
  readonly memoryBytes: number;
  readonly memoryFreeBytes: number;
  /** What the engine will take beside its pages. */
  readonly scratchBytes: number;
}

/**
 * Bytes for the KV cache, with the reckoning in words. A GPU's memory is one block of known size, of which
 * `gpuMemoryUtilization` may be used in all: the pages get what the weights, the scratch memory and others leave.
 */
export function kvCacheBytes(
  kvCacheMemory: KvCacheMemory | null,
  gpuMemoryUtilization: number,
  { backend, memoryBytes, memoryFreeBytes, scratchBytes }: DeviceMemory,
): { bytes: number; reckoning: string } {
  if (kvCacheMemory !== null && "bytes" in kvCacheMemory) return { bytes: kvCacheMemory.bytes, reckoning: "" };
  if (backend !== "cpu" && kvCacheMemory === null) {
    const usedBytes = memoryBytes - memoryFreeBytes;
    return {
      bytes: Math.max(0, gpuMemoryUtilization * memoryBytes - usedBytes - scratchBytes),
      reckoning: ` (${gpuMemoryUtilization} of ${mib(memoryBytes)}, less ${mib(usedBytes)} in use and ` +
        `${mib(scratchBytes)} for steps)`,
    };
  }
  const fraction = kvCacheMemory?.fraction ?? CPU_FRACTION;
  const left = backend === "cpu" ? memoryFreeBytes : Math.max(0, memoryFreeBytes - scratchBytes);
  return { bytes: fraction * left, reckoning: ` (${fraction} of the ${mib(left)} free)` };
}

export interface KvCachePlanOptions {
  readonly kvCacheMemory: KvCacheMemory | null;
  readonly gpuMemoryUtilization: number;
  readonly memory: DeviceMemory;
  /** Bytes of a page over all layers. */
  readonly pageBytes: number;
  /** KV dtypes, and tokens of a page of each. */
  readonly kvKinds: readonly KvKind[];
  readonly maxModelLen: number;
  readonly maxNumSeqs: number;
}

/**
 * How many pages to allocate: what the memory holds, but no more than `maxNumSeqs` sequences of `maxModelLen` tokens
 * can use.
 *
 * @throws {RangeError} Not even one such sequence fits; the message has the numbers and the flags to change.
 */
export function planKvPages(options: KvCachePlanOptions): number {
  const { kvCacheMemory, gpuMemoryUtilization, memory, pageBytes, kvKinds, maxModelLen, maxNumSeqs } = options;
  // A sequence must fit whatever its dtype.
  const pageSize = Math.min(...kvKinds.map((kind) => kind.pageSize));
  const largest = Math.max(...kvKinds.map((kind) => kind.pageSize));
  const { bytes, reckoning } = kvCacheBytes(kvCacheMemory, gpuMemoryUtilization, memory);
  const pagesPerSeq = Math.ceil(maxModelLen / pageSize);
  const numPages = Math.min(Math.floor(bytes / pageBytes), pagesPerSeq * maxNumSeqs, Math.floor(MAX_SLOTS / largest));
  if (numPages < pagesPerSeq) {
    const flag = memory.backend !== "cpu" && kvCacheMemory === null ? "--gpu-memory-utilization" : "--kv-cache-memory";
    throw new RangeError(
      `The KV cache is too small for one sequence of ${maxModelLen} tokens: it needs ` +
        `${mib(pagesPerSeq * pageBytes)} and has ${mib(bytes)}${reckoning}. Raise ${flag}, or lower ` +
        `--max-model-len${numPages > 0 ? ` to ${numPages * pageSize} or less` : ""}, or choose a smaller ` +
        `--kv-cache-dtype such as fp8`,
    );
  }
  return numPages;
}

/**
 * How many host pages the bytes of `--kv-offload-memory` hold; 0 for 0 bytes.
 *
 * @throws {RangeError} Not one page fits.
 */
export function planHostPages(bytes: number, pageBytes: number): number {
  const numPages = Math.floor(bytes / pageBytes);
  if (bytes === 0 || numPages > 0) return Math.min(numPages, 2 ** 31 - 1);
  throw new RangeError(
    `kv_offload_memory must hold one page of the KV cache or more, ${mib(pageBytes)}, received ${mib(bytes)}`,
  );
}

function mib(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}
