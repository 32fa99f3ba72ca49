/**
 * The engine as the HTTP thread sees it: requests in, deltas out. The engine itself runs in a Worker of its own
 * (`engine_worker.ts`); {@linkcode Engine} is its face on this side.
 *
 * @module
 */

import type { LayerKvScales } from "../models/types.ts";
import type { ComparedToken } from "./token_comparison.ts";
import type { EngineError } from "./errors.ts";

/** Names accepted for the KV cache's dtype; `fp8` is `fp8_e4m3`. */
export type KvCacheDtype =
  | "float32"
  | "float16"
  | "bfloat16"
  | "fp8_e4m3"
  | "fp8_e5m2"
  | "fp8_per_token_head"
  | "int8"
  | "int8_per_token_head"
  | "k8v4"
  | "int4";

/** What a GPU makes of the weights of the layers' matrices: "fp8" is E4M3 with a scale a row. */
export type Quantization = "none" | "fp8";

/** How tokens are chosen. Complete: defaults are filled in by `samplingParams()` in `sampling_params.ts`. */
export interface SamplingParams {
  /** Sequences to make from one prompt, >= 1. */
  readonly n: number;
  /** >= 1. */
  readonly maxTokens: number;
  /** Tokens before an end-of-sequence or stop token is allowed. */
  readonly minTokens: number;
  /** 0 = greedy. */
  readonly temperature: number;
  /** 0 = all. */
  readonly topK: number;
  /** (0, 1]. */
  readonly topP: number;
  /** [0, 1]. */
  readonly minP: number;
  /** 0.01 .. 100; 1 = none. */
  readonly repetitionPenalty: number;
  /** Taken once from the logit of a token in the output; -2 .. 2, 0 = none. */
  readonly presencePenalty: number;
  /** Taken from the logit of a token for each time it is in the output; -2 .. 2, 0 = none. */
  readonly frequencyPenalty: number;
  /** Token id to the value added to its logit; -100 bans in practice. */
  readonly logitBias: ReadonlyMap<number, number>;
  /** The only tokens that may be sampled; null: all. */
  readonly allowedTokenIds: readonly number[] | null;
  /** Runs of token ids of which the output is one, then a token that ends it; null: it is free. */
  readonly choices: readonly (readonly number[])[] | null;
  /**
   * Runs of token ids that the output shall not hold: where it ends with all but a run's last token, that one is banned.
   */
  readonly badWords: readonly (readonly number[])[];
  /** 64 bits; sequence i of a request uses seed + i. Drawn at random when the request gives none. */
  readonly seed: bigint;
  /** Texts that end a sequence; not part of the output unless `includeStopStrInOutput`. */
  readonly stop: readonly string[];
  /** Token ids that end a sequence beside the model's own; their text is left out as a stop string's is. */
  readonly stopTokenIds: readonly number[];
  /** Keep the text of what ended a sequence. */
  readonly includeStopStrInOutput: boolean;
  /** Go on after the model's own end-of-sequence tokens. */
  readonly ignoreEos: boolean;
  /** Null: none; n >= 0: the sampled token's log-probability and the n most likely ones'. */
  readonly logprobs: number | null;
  /** Null: none; n >= 0: the log-probability of each token of the prompt and the n most likely ones' in its place. */
  readonly promptLogprobs: number | null;
  /** Let the engine guess tokens where it does so: it changes how fast they come, never which. */
  readonly speculate: boolean;
  /** Tokens that the output may be or hold: where the engine guesses, it guesses them first. Null: none. */
  readonly prediction: readonly number[] | null;
  /** Leave special tokens out of the text. */
  readonly skipSpecialTokens: boolean;
}

/** Why a sequence ended: a stop string or token, its longest length or its request's deadline, or `abort()`. */
export type FinishReason = "stop" | "length" | "abort";

/** How a request ended, as it is counted. */
export type EndReason = FinishReason | "deadline" | "error";

/** The stop reason of a sequence of finish reason "length" that its request's deadline has ended. */
export const DEADLINE_STOP_REASON = "deadline";

/** One token's log-probabilities; tokens are ids, texts come from the tokenizer. */
export interface TokenLogprob {
  /** The token sampled. */
  readonly tokenId: number;
  /** Natural logarithm, after penalties and bias, before temperature and filters. */
  readonly logprob: number;
  /** The most likely tokens, best first; they may leave out the one sampled. */
  readonly top: readonly { readonly tokenId: number; readonly logprob: number }[];
}

/** Log-probabilities of a token of the prompt in its place. */
export interface PromptLogprob {
  /** The prompt's token. */
  readonly tokenId: number;
  /** Natural logarithm, by the model alone: nothing that a request changes about sampling. */
  readonly logprob: number;
  /** 1 for the most likely token of the vocabulary. */
  readonly rank: number;
  /** The most likely tokens, best first; they may leave out the prompt's. */
  readonly top: readonly { readonly tokenId: number; readonly logprob: number }[];
}

/** What one step added to one sequence. */
export interface Delta {
  /** Which of the request's n sequences. */
  readonly index: number;
  /** Text that is certain now: whole characters, nothing that may still become a stop string. May be "". */
  readonly text: string;
  /** The step's tokens, incl. special ones and the stop token. */
  readonly tokenIds: readonly number[];
  /** One entry a token when log-probabilities were asked for. */
  readonly logprobs: readonly TokenLogprob[] | null;
  /** Set in a sequence's last delta only. */
  readonly finishReason: FinishReason | null;
  /**
   * The stop string or stop token id that ended it; with finish reason "length", {@linkcode DEADLINE_STOP_REASON} where
   * that was the request's deadline; else null.
   */
  readonly stopReason: string | number | null;
}

/** What a request took, in tokens. */
export interface Usage {
  /** Tokens of the prompt, counted once whatever n is. */
  readonly promptTokens: number;
  /** Tokens sampled, of all n sequences. */
  readonly completionTokens: number;
  /** Prompt tokens found in the prefix cache. */
  readonly cachedTokens: number;
  /** Tokens guessed, of all n sequences, that were kept and that were not; left out where the engine does not guess. */
  readonly guesses?: { readonly kept: number; readonly rejected: number };
}

/**
 * Receives a request's output on the HTTP thread. Exactly one of `end` and `error` is called, last; after
 * `abort()` it is `end`. Methods must not throw.
 */
export interface Sink {
  /**
   * Log-probabilities of the prompt's tokens, null for the first: once, before any token of the output, where they were
   * asked for.
   */
  promptLogprobs?(logprobs: readonly (PromptLogprob | null)[]): void;
  /** What one or more steps added, in order. */
  deltas(deltas: readonly Delta[]): void;
  /** All sequences have ended. */
  end(usage: Usage): void;
  /** The engine failed; the request did nothing wrong. */
  error(error: Error): void;
}

/** On whose account a request runs. Among waiting requests of equal priority, tenants share the engine by weight. */
export interface Tenant {
  readonly name: string;
  /** Above 0. */
  readonly weight: number;
}

/** A prompt and what to make of it. */
export interface GenerationRequest {
  /** Unique among live requests; also in the log. */
  readonly id: string;
  /** Ids below the model's vocabSize, at least one. */
  readonly promptTokenIds: readonly number[];
  /** How tokens are chosen and when to end. */
  readonly sampling: SamplingParams;
  /** Lower goes first, but one admission in sixteen goes to the longest wait; 0 if left out. */
  readonly priority?: number;
  /** All that name none are one tenant of weight 1. */
  readonly tenant?: Tenant;
  /** How its K and V are stored: one of {@linkcode EngineInfo.kvCacheDtypes}, or "fp8"; the first if left out. */
  readonly kvCacheDtype?: string;
  /** Requests of different salts share no cached prefix; "" if left out. */
  readonly cacheSalt?: string;
  /**
   * Milliseconds from its submission after which it is ended wherever it is, with what it has so far; null or left out:
   * never.
   */
  readonly deadlineMs?: number | null;
}

/** A way to store K and V that requests may choose. */
export interface KvDtypeInfo {
  readonly dtype: KvCacheDtype;
  /** Tokens of a page. */
  readonly pageSize: number;
  /** Tokens that the whole cache holds of it. */
  readonly numKvTokens: number;
  /** Bytes of a token over all layers, what a page leaves unused included. */
  readonly bytesPerToken: number;
}

/** Fixed facts, known once the engine is ready. */
export interface EngineInfo {
  /** How K and V are stored. */
  readonly kvCacheDtype: KvCacheDtype;
  /** What requests may choose from, the default first; all share the pages. */
  readonly kvCacheDtypes: readonly KvDtypeInfo[];
  /** Why that dtype, for the log: for example "given by --kv-cache-dtype"; names the layers kept in another. */
  readonly kvCacheDtypeReason: string;
  /**
   * Of each layer: how it is stored; its scales, null where the dtype takes none from outside, and until
   * `calculateKvScales` has set them; where the mean comes from that is taken off K, null = none is.
   */
  readonly kvLayers: readonly {
    readonly dtype: KvCacheDtype;
    readonly scales: LayerKvScales | null;
    readonly kMean: "file" | "checkpoint" | null;
  }[];
  /** Tokens from which `calculateKvScales` is about to set the scales; null = it is not. */
  readonly kvScaleTokens: number | null;
  /** Tokens of a page. */
  readonly pageSize: number;
  /** Pages of the KV cache. */
  readonly numPages: number;
  /** Tokens the cache holds: numPages x pageSize. */
  readonly numKvTokens: number;
  /** Pages of host memory for those that the cache has no room for. */
  readonly numHostPages: number;
  /** Bytes of a token's K and V over all layers. */
  readonly kvBytesPerToken: number;
  /** What it would be in bfloat16. */
  readonly kvBytesPerTokenBfloat16: number;
  /** Bytes of the weights in memory. */
  readonly weightBytes: number;
  /** Longest sequence, prompt and output together, in tokens. */
  readonly maxModelLen: number;
  /** Most sequences of one step. */
  readonly maxNumSeqs: number;
  /** Most tokens of one step. */
  readonly maxNumBatchedTokens: number;
  /** Largest `logprobs` a request may ask for. */
  readonly maxLogprobs: number;
  /** Threads that compute. */
  readonly numThreads: number;
  /**
   * Backend ("cpu", "cuda"), name of the processor or card, and the code path in use; and where a GPU was looked for in
   * vain, why.
   */
  readonly device: {
    readonly backend: string;
    readonly name: string;
    readonly isa: string;
    readonly whyCpu: string | null;
  };
}

/** What the cache made of K or V of one layer since the start, over all its heads. */
export interface KvPartStats {
  /** Largest magnitude, before quantisation. */
  readonly absmax: number;
  /** Elements stored as the format's largest value because they are beyond it. */
  readonly numSaturated: number;
  /** Root mean square of what storing cost, as a part of that of the elements; of sampled tokens. Null: none yet. */
  readonly error: number | null;
}

/** What the cache made of K and V since the start. */
export interface KvCacheStats {
  /** Tokens stored, those stored again after a preemption included. */
  readonly numTokens: number;
  /** Elements of K stored in all layers; as many of V. */
  readonly numElements: number;
  readonly layers: readonly { readonly k: KvPartStats; readonly v: KvPartStats }[];
}

/** Pages that the cache had no room for, in host memory. */
export interface KvOffloadStats {
  /** 0..1 of the host pages. */
  readonly usage: number;
  /** Prompt tokens that came back from there; among those of `prefixCacheHitsTotal`. */
  readonly restoredTokensTotal: number;
  /** Bytes copied there, and back. */
  readonly savedBytesTotal: number;
  readonly restoredBytesTotal: number;
}

/** Counters and gauges, read from shared memory: never waits for the engine. */
export interface EngineStats {
  /** Requests with a sequence that holds pages. */
  readonly numRequestsRunning: number;
  /** Requests without. */
  readonly numRequestsWaiting: number;
  /** 0..1 of the pages. */
  readonly kvCacheUsage: number;
  /** Of that, what each of {@linkcode EngineInfo.kvCacheDtypes} has. */
  readonly kvCacheUsageByDtype: readonly number[];
  /** Prompt tokens of all requests so far that gave a token. */
  readonly promptTokensTotal: number;
  /** Tokens sampled so far. */
  readonly generationTokensTotal: number;
  /** Times a sequence gave up its pages to an older one. */
  readonly preemptionsTotal: number;
  /** Prompt tokens looked up in the prefix cache so far. */
  readonly prefixCacheQueriesTotal: number;
  /** Of these, how many it held. */
  readonly prefixCacheHitsTotal: number;
  /** What host memory keeps of the cache; null without `--kv-offload-memory`. */
  readonly kvOffload: KvOffloadStats | null;
  /** Steps of sequences that held guesses, guesses in them, and those that were right. */
  readonly speculativeStepsTotal: number;
  readonly guessedTokensTotal: number;
  readonly keptTokensTotal: number;
  /** Steps run so far. */
  readonly stepsTotal: number;
  /** Requests that have ended, by how. */
  readonly requestsFinishedTotal: Readonly<Record<EndReason, number>>;
  /** Milliseconds since the last step ended; null before the first. */
  readonly lastStepAgeMs: number | null;
  /** Up to a second old; null unless `kvCacheStats` is on. */
  readonly kvCache: KvCacheStats | null;
  /** False once the engine has failed or closed. */
  readonly alive: boolean;
}

/** One prompt to run under two KV caches, beside the requests that run. */
export interface KvCompareRequest {
  /** Ids below the model's vocabSize, at least one. */
  readonly promptTokenIds: readonly number[];
  /** Tokens to decode greedily under the reference, >= 0; with the prompt at most {@linkcode MAX_COMPARED_TOKENS}. */
  readonly maxTokens: number;
  /** Null: float32 on a CPU, else the model's dtype. */
  readonly reference: string | null;
  /** Null: the engine's own. */
  readonly kvCacheDtype: string | null;
}

/** Longest text of a {@linkcode KvCompareRequest}, in tokens: what bounds its cost. */
export const MAX_COMPARED_TOKENS = 2048;

/** What came of it. */
export interface KvCompareResult {
  readonly reference: KvCacheDtype;
  readonly kvCacheDtype: KvCacheDtype;
  /** All but the prompt's first. */
  readonly tokens: readonly ComparedToken[];
}

/** A running engine. */
export interface Engine {
  /** What was decided at the start. */
  readonly info: EngineInfo;
  /** What the engine does now. */
  stats(): EngineStats;
  /**
   * Queues a request.
   *
   * @throws {RequestError} At once and with nothing queued: the request can never run (too long for the model or the
   * cache, token ids out of range, too many logprobs), or the queue is full (`OverloadedError`).
   * @returns A function that aborts the request; idempotent, without effect once it has ended.
   */
  submit(request: GenerationRequest, sink: Sink): () => void;
  /** Resolves when the engine takes no request any more: with the error if it failed, with null once it is closed. */
  readonly ended: Promise<EngineError | null>;
  /**
   * Runs a prompt under two KV caches, token by token, in engines opened for it. One at a time, a turn between two steps.
   *
   * @param signal Ends it early.
   * @throws {RequestError} It can never run (too long, a dtype the model cannot have), or another one is under way or the
   * memory does not suffice (`OverloadedError`).
   * @throws {EngineError} The engine has failed or is closed.
   */
  compareKv(request: KvCompareRequest, signal?: AbortSignal): Promise<KvCompareResult>;
  /** Ends all requests, then the Worker and the native library. */
  close(): Promise<void>;
  /** `close()`, for `await using`. */
  [Symbol.asyncDispose](): Promise<void>;
}
