/**
 * What the HTTP thread and the engine's Worker say to each other.
 *
 * @module
 */

import type { Device } from "../ffi/library_search.ts";
import type { LayerKvScales, ModelConfig, TensorSource, TokenTable } from "../models/types.ts";
import type { KvKind } from "../ffi/native_engine.ts";
import type { RequestLimits } from "./admission.ts";
import type { KvCacheMemory } from "./kv_cache_plan.ts";
import type { KvVariant } from "./kv_comparison.ts";
import type { LayerKMean } from "./kv_scales.ts";
import type { MailboxEnd } from "./mailbox.ts";
import type { PromptScores } from "./prompt_scores.ts";
import type { TokenColumns } from "./token_columns.ts";
import type {
  Delta,
  EngineInfo,
  KvCacheDtype,
  KvCacheStats,
  Quantization,
  SamplingParams,
  Tenant,
  Usage,
} from "./types.ts";
import type { ComparedToken } from "./token_comparison.ts";

/** What the Worker needs of a model; a tokenizer cannot cross. */
export interface WorkerModel {
  readonly paths: readonly string[];
  readonly config: ModelConfig;
  readonly tensors: readonly TensorSource[];
  readonly tokenTable: TokenTable;
  readonly eosTokenIds: readonly number[];
}

/** Settings of an engine. Null: decided by the device. */
export interface EngineSettings {
  readonly device: Device;
  /** Path of the native library; null = looked up. */
  readonly library: string | null;
  /** Of kv index 0. */
  readonly kvCacheDtype: KvCacheDtype;
  /** By kv index. */
  readonly kvKinds: readonly KvKind[];
  readonly kvCacheDtypeReason: string;
  /** Of each layer; null = the sequence's. */
  readonly layerKvDtypes: readonly (KvCacheDtype | null)[];
  readonly kvCacheMemory: KvCacheMemory | null;
  /** Bytes of host memory for pages that the cache has no room for; 0: none. */
  readonly kvOffloadBytes: number;
  /** Of a GPU's memory, 0 .. 1: weights, scratch and KV cache together. */
  readonly gpuMemoryUtilization: number;
  /** What a GPU makes of the layers' matrices. */
  readonly quantization: Quantization;
  /** Tokens from which the FP8 cache's scales are calculated; null = they are not. */
  readonly kvScaleTokens: number | null;
  /** Count what the cache makes of K and V. */
  readonly kvCacheStats: boolean;
  /** Find pages that change while they are shared. */
  readonly checkPages: boolean;
  /** Of each layer; null where its dtype takes none from outside. */
  readonly kvScales: readonly (LayerKvScales | null)[];
  /** Of each layer; null = none. */
  readonly kMeans: readonly (LayerKMean | null)[];
  readonly maxModelLen: number;
  readonly maxNumSeqs: number | null;
  readonly maxNumBatchedTokens: number | null;
  /** Share the pages of equal beginnings. */
  readonly enablePrefixCaching: boolean;
  /** Most tokens guessed for a sequence in one step; 0: none; null: as many as the device gains by. */
  readonly numSpeculativeTokens: number | null;
  /** Tokens of a text's end that must have stood in it before, for what followed to be guessed. */
  readonly promptLookupMin: number;
  readonly maxLogprobs: number;
  /** 0 = physical cores. */
  readonly numThreads: number;
}

/** The Worker's first message. */
export interface StartMessage {
  readonly model: WorkerModel;
  readonly settings: EngineSettings;
  readonly mailbox: MailboxEnd;
  /** Memory of {@linkcode Counters}. */
  readonly counters: SharedArrayBuffer;
}

/** To the engine. `key` names a request; it is never used twice. */
export type EngineMessage =
  | {
    readonly type: "submit";
    readonly key: number;
    readonly id: string;
    readonly prompt: Int32Array;
    readonly sampling: SamplingParams;
    readonly priority: number;
    readonly cacheSalt: string;
    /** Which of the engine's KV dtypes; 0 if left out. */
    readonly kvIndex?: number;
    /** Left out: that of all requests that name none. */
    readonly tenant?: Tenant;
    /** By `nowMs()`; null or left out: none. */
    readonly deadlineMs?: number | null;
  }
  | CompareMessage
  /** Of a request or a comparison. */
  | { readonly type: "abort"; readonly key: number }
  | { readonly type: "close" };

/** A comparison of two KV caches; one at a time. */
export interface CompareMessage {
  readonly type: "compare";
  readonly key: number;
  /** The reference, then the other. */
  readonly variants: readonly [KvVariant, KvVariant];
  readonly prompt: Int32Array;
  /** Tokens to decode. */
  readonly maxTokens: number;
}

/** Its answer: tokens or an error. */
export interface ComparedMessage {
  readonly type: "compared";
  readonly key: number;
  readonly tokens: readonly ComparedToken[] | null;
  readonly error: { readonly message: string; readonly isOutOfMemory: boolean } | null;
}

/** What one step did for one request. In a request's last outcome, and only there, usage or error is set. */
export interface Outcome {
  readonly key: number;
  /** Of the whole prompt, in one outcome of a request that asks for them, before or with its first tokens. */
  readonly promptScores: PromptScores | null;
  readonly deltas: readonly Delta[];
  readonly usage: Usage | null;
  readonly error: string | null;
}

/** From the engine. */
export type WorkerMessage =
  | { readonly type: "progress"; readonly doneBytes: number; readonly totalBytes: number }
  | { readonly type: "ready"; readonly info: EngineInfo; readonly limits: RequestLimits }
  /** What one step did: the plain outcomes as columns, then the others. */
  | { readonly type: "outcomes"; readonly columns: TokenColumns | null; readonly outcomes: readonly Outcome[] }
  | ComparedMessage
  | { readonly type: "warning"; readonly message: string }
  /** The calculated scales are set, from so many tokens. */
  | { readonly type: "kv_scales"; readonly layers: EngineSettings["kvScales"]; readonly numTokens: number }
  | { readonly type: "kv_stats"; readonly stats: KvCacheStats }
  /** The engine is gone; outcomes with an error have gone before. */
  | { readonly type: "failed"; readonly message: string }
  /** The Worker has freed everything. */
  | { readonly type: "closed" };
