/**
 * What a model's files say, and what a server would make of them, without loading a weight.
 *
 * @module
 */

import { openDevice } from "../ffi/library.ts";
import { kvScaleTable, readKvScaleFile } from "../models/kv_scales.ts";
import type { LayerKvScales, ModelConfig, ModelFiles } from "../models/types.ts";
import { kvBytesPerToken } from "./kv_bytes.ts";
import {
  chooseKvCacheDtype,
  type DeviceMemory,
  KV_CACHE_DTYPE_NAMES,
  kvCacheBytes,
  type KvCacheDtypeName,
  type KvCacheMemory,
  type SkippedLayer,
  skippedLayers,
} from "./kv_cache_plan.ts";
import { chooseKvScales } from "./kv_scales.ts";
import type { KvCacheDtype } from "./types.ts";

export interface InspectOptions {
  readonly model: ModelFiles;
  readonly kvCacheDtype: KvCacheDtypeName;
  readonly kvCacheDtypeSkipLayers: readonly SkippedLayer[];
  /** A file of scales, before the checkpoint's. */
  readonly kvScales: string | null;
  readonly kvCacheMemory: KvCacheMemory | null;
  readonly gpuMemoryUtilization: number;
  readonly pageSize: number;
  /** Null: the model's. */
  readonly maxModelLen: number | null;
}

/** Scales of one layer, and the names of the tensors that hold them. */
export interface InspectedScales {
  readonly layer: number;
  readonly scales: LayerKvScales;
  readonly names: readonly string[];
}

/** What one KV dtype would hold. */
export interface InspectedDtype {
  readonly dtype: KvCacheDtype;
  /** Null where the dtype does not take the model's head dimension. */
  readonly bytesPerToken: number | null;
  /** Tokens that fit the memory, in whole pages; null where nothing is known of the memory. */
  readonly numTokens: number | null;
}

/** A model's facts. */
export interface ModelReport {
  readonly name: string;
  readonly source: string;
  readonly numFiles: number;
  readonly config: Omit<ModelConfig, "invFreq" | "layers">;
  readonly numParameters: number;
  /** Of the layers' windows: tokens (0 = all), and how many layers have it. */
  readonly slidingWindows: readonly { readonly tokens: number; readonly numLayers: number }[];
  readonly hasChatTemplate: boolean;
  /** By dtype, in the order of their bytes. */
  readonly weights: readonly { readonly dtype: string; readonly numTensors: number; readonly bytes: number }[];
  readonly kvCache: {
    readonly dtype: KvCacheDtype;
    readonly reason: string;
    /** Layers that keep the model's dtype. */
    readonly skippedLayers: readonly number[];
    /** What the files bring. */
    readonly scales: readonly InspectedScales[];
    /** Layers whose mean of K the files bring, for rotated caches. */
    readonly numKMeans: number;
    /** What a server would warn of; null = nothing. */
    readonly warning: string | null;
  };
  readonly maxModelLen: number;
  /** Bytes for the cache and how they are reckoned; null where no device could be asked and no size was given. */
  readonly memory: { readonly bytes: number; readonly reckoning: string } | null;
  /** Why memory is null, or "". */
  readonly noMemory: string;
  readonly dtypes: readonly InspectedDtype[];
}

/**
 * Reports on a model.
 *
 * @throws {RangeError} A dtype or layer that there is not, or a file of scales for a cache that takes none.
 * @throws {ModelFileError} The file of scales is damaged.
 */
export async function inspectModel(options: InspectOptions): Promise<ModelReport> {
  const { model, pageSize } = options;
  const { layers, invFreq: _, ...config } = model.config;
  const bytes = model.tensors.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  const { memory, noMemory } = await cacheMemory(options, bytes);
  const skipped = skippedLayers(options.kvCacheDtypeSkipLayers, layers);
  const dtypes = KV_CACHE_DTYPE_NAMES.filter((name): name is KvCacheDtype => name !== "auto" && name !== "fp8");
  return {
    name: model.name,
    source: model.source,
    numFiles: model.paths.length,
    config,
    numParameters: model.tensors.reduce((sum, { rows, cols }) => sum + rows * cols, 0),
    slidingWindows: countBy(layers.map(({ slidingWindow }) => slidingWindow))
      .map(([tokens, numLayers]) => ({ tokens, numLayers })),
    hasChatTemplate: model.chatTemplate !== null,
    weights: countBy(model.tensors.map(({ dtype }) => dtype)).map(([dtype, numTensors]) => ({
      dtype,
      numTensors,
      bytes: model.tensors.reduce((sum, one) => sum + (one.dtype === dtype ? one.sizeBytes : 0), 0),
    })).sort((a, b) => b.bytes - a.bytes),
    kvCache: chosenCache(options, skipped),
    maxModelLen: options.maxModelLen ?? config.maxModelLen,
    memory,
    noMemory,
    dtypes: dtypes.map((dtype) => {
      const layerDtypes = layers.map((_, layer) => skipped.includes(layer) ? config.dtype : dtype);
      const bytesPerToken = kvBytesPerToken(config, layerDtypes);
      const numTokens = memory === null || bytesPerToken === null
        ? null
        : Math.floor(memory.bytes / (bytesPerToken * pageSize)) * pageSize;
      return { dtype, bytesPerToken, numTokens };
    }),
  };
}

/** What a server would choose. */
function chosenCache(
  { model, kvCacheDtype, kvScales }: InspectOptions,
  skipped: readonly number[],
): ModelReport["kvCache"] {
  const { config, kvCache } = model;
  const { dtype, reason } = chooseKvCacheDtype(kvCacheDtype, config.dtype, kvCache.fp8AskedBy);
  const file = kvScales === null ? null : kvScaleTable(readKvScaleFile(kvScales), config, "file");
  const { warning } = chooseKvScales({
    checkpoint: kvCache,
    file,
    layerDtypes: config.layers.map((_, layer) => skipped.includes(layer) ? config.dtype : dtype),
    calculate: false,
    strict: false,
  });
  const tables = file === null ? [kvCache.scales] : [file, kvCache.scales];
  const scales = config.layers.flatMap((_, layer): InspectedScales[] => {
    const table = tables.find(({ layers }) => layers[layer] !== null);
    return table === undefined ? [] : [{ layer, scales: table.layers[layer]!, names: table.names[layer]! }];
  });
  const numKMeans = config.layers.filter((_, layer) => tables.some(({ means }) => means[layer] !== null)).length;
  return { dtype, reason, skippedLayers: skipped, scales, numKMeans, warning };
}

/** What a server on this machine would give the cache, or what was asked for. */
async function cacheMemory(
  { kvCacheMemory, gpuMemoryUtilization }: InspectOptions,
  weightBytes: number,
): Promise<Pick<ModelReport, "memory" | "noMemory">> {
  let device: DeviceMemory = { backend: "cpu", memoryBytes: 0, memoryFreeBytes: 0, scratchBytes: 0 };
  if (kvCacheMemory === null || "fraction" in kvCacheMemory) {
    try {
      using library = (await openDevice("auto")).library;
      const { backend, memoryBytes, memoryFreeBytes } = library.deviceInfo();
      device = { backend, memoryBytes, memoryFreeBytes: Math.max(0, memoryFreeBytes - weightBytes), scratchBytes: 0 };
    } catch (error) {
      return { memory: null, noMemory: (error as Error).message };
    }
  }
  return { memory: kvCacheBytes(kvCacheMemory, gpuMemoryUtilization, device), noMemory: "" };
}

/** Values with how often each comes, in the order of their first. */
function countBy<T>(values: readonly T[]): [T, number][] {
  const counts = new Map<T, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts];
}
