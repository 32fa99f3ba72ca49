/** An {@linkcode EngineClient} on the fake model, in a Worker. */

import { Counters } from "../../engine/counters.ts";
import { EngineClient } from "../../engine/engine_client.ts";
import { MailboxSender } from "../../engine/mailbox.ts";
import type { EngineMessage } from "../../engine/messages.ts";
import type { Delta, Sink, Usage } from "../../engine/types.ts";
import type { FakeStart, Fault } from "./_fake_engine_worker.ts";
import { VOCAB_SIZE } from "./_fake_model.ts";

const CONFIG = { maxNumSeqs: 4, maxNumBatchedTokens: 16, pageSize: 4, numPages: 64 };
const ALL_STEPS = 2 ** 31 - 1;

/** What an {@linkcode EngineClient} of the fake model needs, but for its Worker. */
export function clientOptions() {
  const { pageSize, numPages, maxNumSeqs, maxNumBatchedTokens } = CONFIG;
  const limits = {
    maxModelLen: 200,
    vocabSize: VOCAB_SIZE,
    numEosTokenIds: 1,
    kvKinds: [{ kvDtype: "float32" as const, pageSize }],
    numPages,
    maxNumSeqs,
    maxLogprobs: 4,
    maxLogitEdits: 4096,
  };
  const info = {
    kvCacheDtype: "float32",
    kvCacheDtypes: [{ dtype: "float32", pageSize, numKvTokens: numPages * pageSize, bytesPerToken: 4 }],
    kvCacheDtypeReason: "a test",
    kvLayers: [{ dtype: "float32", scales: null, kMean: null }],
    kvScaleTokens: null,
    pageSize,
    numPages,
    numKvTokens: numPages * pageSize,
    numHostPages: 0,
    kvBytesPerToken: 4,
    kvBytesPerTokenBfloat16: 4,
    weightBytes: 0,
    maxModelLen: limits.maxModelLen,
    maxNumSeqs,
    maxNumBatchedTokens,
    maxLogprobs: limits.maxLogprobs,
    numThreads: 1,
    device: { backend: "fake", name: "fake", isa: "none", whyCpu: null },
  } as const;
  const kvVariant = () => {
    throw new RangeError("the fake model has no caches to compare");
  };
  return { counters: new Counters(), info, limits, maxQueuedRequests: 1024, kvVariant };
}

/** The engine, and a function that lets it run its first n steps (all of them at the start). */
export function startFakeEngine(
  options: { fault?: Fault; maxQueuedRequests?: number; steps?: number } = {},
): { engine: EngineClient; allowSteps(n: number): void } {
  const mailbox = new MailboxSender<EngineMessage>();
  const gate = new Int32Array(new SharedArrayBuffer(4));
  gate[0] = options.steps ?? ALL_STEPS;
  const worker = new Worker(new URL("./_fake_engine_worker.ts", import.meta.url), { type: "module" });
  const common = clientOptions();
  const start: FakeStart = {
    mailbox: mailbox.receivingEnd,
    counters: common.counters.memory,
    config: CONFIG,
    fault: options.fault ?? "none",
    gate,
  };
  worker.postMessage(start, [mailbox.receivingEnd.port]);
  const { maxQueuedRequests = common.maxQueuedRequests } = options;
  return {
    engine: new EngineClient({ ...common, worker, mailbox, maxQueuedRequests }),
    allowSteps(n) {
      Atomics.store(gate, 0, n);
      Atomics.notify(gate, 0);
    },
  };
}

/** A sink that keeps everything. */
export class Recorder implements Sink {
  readonly received: Delta[] = [];
  readonly events: string[] = [];
  readonly ended: Promise<void>;
  #end: () => void;

  constructor() {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.ended = promise;
    this.#end = resolve;
  }

  get tokenIds(): number[] {
    return this.received.flatMap((delta) => delta.tokenIds);
  }

  /** The terminal event, once it has come, and what should not have come after it. */
  async lastEvent(): Promise<string> {
    await this.ended;
    return this.events.join(", ");
  }

  deltas(deltas: readonly Delta[]): void {
    this.received.push(...deltas);
    if (this.events.length > 0) this.events.push("deltas");
  }

  end(usage: Usage): void {
    this.events.push(`end ${usage.completionTokens}`);
    this.#end();
  }

  error(error: Error): void {
    this.events.push(`${error.name}: ${error.message}`);
    this.#end();
  }
}
