/**
 * The engine's face on the HTTP thread: checks requests, hands them to the Worker and its outcomes to their sinks.
 * It never waits for the Worker.
 *
 * @module
 */

import { checkRequest, kvIndexOf, type RequestLimits } from "./admission.ts";
import { nowMs } from "./clock.ts";
import type { Counters } from "./counters.ts";
import { EngineError } from "./errors.ts";
import { kvScaleLines } from "./kv_scales.ts";
import type { MailboxSender } from "./mailbox.ts";
import { KvCompareClient } from "./kv_compare_client.ts";
import type { KvVariant } from "./kv_comparison.ts";
import { QueueLimit } from "./queue_limit.ts";
import { unpackOutcomes } from "./token_columns.ts";
import type { EngineMessage, Outcome, WorkerMessage } from "./messages.ts";
import { promptLogprobs } from "./prompt_scores.ts";
import type { LayerKvScales } from "../models/types.ts";
import type {
  Engine,
  EngineInfo,
  EngineStats,
  GenerationRequest,
  KvCacheStats,
  KvCompareRequest,
  KvCompareResult,
  KvOffloadStats,
  Sink,
} from "./types.ts";

export interface EngineClientOptions {
  /** Runs the step loop; it is ended by `close()`. */
  readonly worker: Worker;
  readonly mailbox: MailboxSender<EngineMessage>;
  readonly counters: Counters;
  readonly info: EngineInfo;
  readonly limits: RequestLimits;
  /** Requests that may wait; more are refused with `OverloadedError`, as `QueueLimit` has it. */
  readonly maxQueuedRequests: number;
  /**
   * The cache of a dtype for comparisons; null = the reference that fits the device.
   *
   * @throws {RangeError} The model cannot have it.
   */
  readonly kvVariant: (dtype: string | null) => KvVariant;
}

/** A request without its end. */
interface Live {
  readonly id: string;
  readonly sink: Sink;
  readonly promptTokenIds: readonly number[];
  /** Of the queue's limit. */
  readonly leave: () => void;
}

export class EngineClient implements Engine {
  #info: EngineInfo;
  #kvCache: KvCacheStats | null = null;
  readonly #options: EngineClientOptions;
  readonly #live = new Map<number, Live>();
  readonly #ids = new Set<string>();
  readonly #queueLimit: QueueLimit;
  readonly #comparisons: KvCompareClient;
  readonly #ended = Promise.withResolvers<EngineError | null>();
  readonly ended = this.#ended.promise;
  #nextKey = 0;
  #isClosing = false;
  /** Why no request is taken any more. */
  #failure: string | null = null;

  constructor(options: EngineClientOptions) {
    this.#info = options.info;
    this.#queueLimit = new QueueLimit(options.maxQueuedRequests);
    this.#options = options;
    const { worker, mailbox, limits, info, kvVariant } = options;
    this.#comparisons = new KvCompareClient({
      post: (message) => mailbox.post(message),
      nextKey: () => this.#nextKey++,
      limits,
      ownDtype: info.kvCacheDtype,
      kvVariant,
    });
    worker.onmessage = (event: MessageEvent<WorkerMessage>) => this.#receive(event.data);
    worker.onmessageerror = () => this.#die("A message from the engine's Worker could not be read");
    worker.onerror = (event) => {
      event.preventDefault();
      this.#die(event.message);
    };
  }

  get info(): EngineInfo {
    return this.#info;
  }

  stats(): EngineStats {
    const { counters, limits } = this.#options;
    const numRequestsRunning = counters.get("numRequestsRunning");
    const lastStepTimeMs = counters.get("lastStepTimeMs");
    return {
      numRequestsRunning,
      // Also those that the Worker has not taken yet.
      numRequestsWaiting: Math.max(0, this.#live.size - numRequestsRunning),
      kvCacheUsage: counters.get("numPagesOwned") / limits.numPages,
      kvCacheUsageByDtype: limits.kvKinds.map((_, kvIndex) => counters.pagesOwnedOf(kvIndex) / limits.numPages),
      promptTokensTotal: counters.get("promptTokensTotal"),
      generationTokensTotal: counters.get("generationTokensTotal"),
      preemptionsTotal: counters.get("preemptionsTotal"),
      prefixCacheQueriesTotal: counters.get("prefixCacheQueriesTotal"),
      prefixCacheHitsTotal: counters.get("prefixCacheHitsTotal"),
      kvOffload: this.#kvOffload(),
      speculativeStepsTotal: counters.get("speculativeStepsTotal"),
      guessedTokensTotal: counters.get("guessedTokensTotal"),
      keptTokensTotal: counters.get("keptTokensTotal"),
      stepsTotal: counters.get("stepsTotal"),
      requestsFinishedTotal: counters.finishedTotal(),
      lastStepAgeMs: lastStepTimeMs === 0 ? null : Math.max(0, Date.now() - lastStepTimeMs),
      kvCache: this.#kvCache,
      alive: this.#failure === null,
    };
  }

  /** Takes over and logs the scales that the first tokens gave. */
  #setKvScales(layers: readonly (LayerKvScales | null)[], numTokens: number): void {
    const kvLayers = this.#info.kvLayers.map((one, layer) => ({ ...one, scales: layers[layer] ?? null }));
    this.#info = { ...this.#info, kvLayers, kvScaleTokens: null };
    console.error(`KV scales set from the first ${numTokens} tokens:\n${kvScaleLines(layers)}`);
  }

  #kvOffload(): KvOffloadStats | null {
    const { counters, info: { numHostPages } } = this.#options;
    if (numHostPages === 0) return null;
    return {
      usage: counters.get("numHostPagesKept") / numHostPages,
      restoredTokensTotal: counters.get("kvRestoredTokensTotal"),
      savedBytesTotal: counters.get("kvSavedBytesTotal"),
      restoredBytesTotal: counters.get("kvRestoredBytesTotal"),
    };
  }

  /**
   * See {@linkcode Engine.submit}.
   *
   * @throws {EngineError} The engine has failed or is closed.
   */
  submit(request: GenerationRequest, sink: Sink): () => void {
    if (this.#failure !== null) throw new EngineError(this.#failure);
    checkRequest(request, this.#options.limits);
    if (this.#ids.has(request.id)) throw new TypeError(`Cannot submit a request: the id "${request.id}" is in use`);
    const { mailbox } = this.#options;
    const leave = this.#queueLimit.enter(request.tenant, this.stats().numRequestsWaiting);
    const { id, promptTokenIds, sampling, priority = 0, cacheSalt = "", deadlineMs: timeMs = null } = request;
    const deadlineMs = timeMs === null ? null : nowMs() + timeMs;
    const key = this.#nextKey++;
    const prompt = Int32Array.from(promptTokenIds);
    const tenant = request.tenant === undefined ? {} : { tenant: request.tenant };
    const kvIndex = kvIndexOf(request, this.#options.limits);
    mailbox.post({ type: "submit", key, id, prompt, sampling, priority, cacheSalt, deadlineMs, kvIndex, ...tenant });
    this.#ids.add(id);
    this.#live.set(key, { id, sink, promptTokenIds, leave });
    let isAborted = false;
    return () => {
      if (isAborted || !this.#live.has(key)) return;
      isAborted = true;
      mailbox.post({ type: "abort", key });
    };
  }

  async compareKv(request: KvCompareRequest, signal?: AbortSignal): Promise<KvCompareResult> {
    if (this.#failure !== null) throw new EngineError(this.#failure);
    return await this.#comparisons.compare(request, signal);
  }

  async close(): Promise<void> {
    if (!this.#isClosing) {
      this.#isClosing = true;
      if (this.#failure === null) {
        this.#failure = "The engine is closed";
        this.#options.mailbox.post({ type: "close" });
      }
    }
    await this.ended;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #receive(message: WorkerMessage): void {
    switch (message.type) {
      case "outcomes":
        if (message.columns !== null) unpackOutcomes(message.columns, (outcome) => this.#deliver(outcome));
        for (const outcome of message.outcomes) this.#deliver(outcome);
        break;
      case "kv_scales":
        this.#setKvScales(message.layers, message.numTokens);
        break;
      case "kv_stats":
        this.#kvCache = message.stats;
        break;
      case "compared":
        this.#comparisons.receive(message);
        break;
      case "warning":
        console.warn(message.message);
        break;
      case "failed":
        this.#failure ??= `The engine failed: ${message.message}`;
        break;
      case "closed":
        this.#end("The engine is closed");
        break;
    }
  }

  #deliver({ key, promptScores, deltas, usage, error }: Outcome): void {
    const live = this.#live.get(key);
    if (live === undefined) return;
    const { id, sink, promptTokenIds } = live;
    if (usage !== null || error !== null) this.#forget(key, live);
    const isHeard = this.#tell(id, () => {
      if (promptScores !== null) sink.promptLogprobs?.(promptLogprobs(promptTokenIds, promptScores));
      if (deltas.length > 0) sink.deltas(deltas);
      if (usage !== null) sink.end(usage);
      if (error !== null) sink.error(new EngineError(error));
    });
    // Nobody listens to it any more.
    if (!isHeard && this.#forget(key, live)) this.#options.mailbox.post({ type: "abort", key });
  }

  /** Calls a sink. False: it threw, which is its owner's fault and costs its own request and a line in the log. */
  #tell(id: string, call: () => void): boolean {
    try {
      call();
      return true;
    } catch (error) {
      console.error(`The sink of request ${id} failed:`, error);
      return false;
    }
  }

  /** False: it was forgotten before. */
  #forget(key: number, { id, leave }: Live): boolean {
    if (!this.#live.delete(key)) return false;
    this.#ids.delete(id);
    leave();
    return true;
  }

  /** The Worker died without a word to its requests. */
  #die(message: string): void {
    this.#failure ??= `The engine failed: ${message}`;
    this.#end(this.#failure);
  }

  /** The Worker has nothing more to say: no sink is left without its end. */
  #end(reason: string): void {
    const hasFailed = !this.#isClosing;
    this.#failure ??= reason;
    const live = [...this.#live.values()];
    this.#live.clear();
    this.#ids.clear();
    for (const { id, sink } of live) this.#tell(id, () => sink.error(new EngineError(reason)));
    this.#comparisons.end(reason);
    this.#options.counters.set("numRequestsRunning", 0);
    this.#options.worker.terminate();
    this.#options.mailbox.close();
    this.#ended.resolve(hasFailed ? new EngineError(this.#failure) : null);
  }
}
