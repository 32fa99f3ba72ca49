/**
 * An engine for tests of the HTTP side: it keeps what was submitted and says what a test tells it to say.
 *
 * Its tokens are bytes: ids 0 to 255 stand for themselves, three special ones follow.
 *
 * @module
 */

import type {
  Delta,
  Engine,
  EngineInfo,
  EngineStats,
  FinishReason,
  GenerationRequest,
  KvCompareRequest,
  KvCompareResult,
  Sink,
  TokenLogprob,
  Usage,
} from "../../engine/types.ts";
import type { ChatTemplate, Tokenizer, TokenTable } from "../../models/types.ts";
import { createApp } from "../../routes/app.ts";
import type { ServerContext } from "../../routes/context.ts";

export const BOS = 256;
export const TURN_START = 257;
export const TURN_END = 258;
const SPECIAL_TEXTS = ["<s>", "<|start|>", "<|end|>"];
const encoder = new TextEncoder();

/** A submitted request, to be answered by hand or by a script. */
export class FakeRequest {
  isAborted = false;
  isOver = false;
  numTokens = 0;

  constructor(readonly request: GenerationRequest, readonly sink: Sink) {}

  /** One step. */
  emit(...deltas: Partial<Delta>[]): void {
    if (this.isOver) return;
    const whole = deltas.map((delta): Delta => ({
      index: 0,
      text: "",
      tokenIds: [],
      logprobs: null,
      finishReason: null,
      stopReason: null,
      ...delta,
    }));
    for (const { tokenIds } of whole) this.numTokens += tokenIds.length;
    this.sink.deltas(whole);
  }

  end(usage: Partial<Usage> = {}): void {
    if (this.isOver) return;
    this.isOver = true;
    const promptTokens = this.request.promptTokenIds.length;
    this.sink.end({ promptTokens, completionTokens: this.numTokens, cachedTokens: 0, ...usage });
  }

  fail(error: Error): void {
    if (this.isOver) return;
    this.isOver = true;
    this.sink.error(error);
  }
}

/** A scripted engine. */
export class FakeEngine implements Engine {
  readonly requests: FakeRequest[] = [];
  numAborts = 0;
  /** Called with each request, later than its submission; null: tests answer by hand. */
  script: ((request: FakeRequest) => void | Promise<void>) | null = reply("Hello");
  /** Thrown by the next submissions. */
  refuseWith: Error | null = null;
  currentStats: EngineStats = {
    numRequestsRunning: 0,
    numRequestsWaiting: 0,
    kvCacheUsage: 0,
    kvCacheUsageByDtype: [0],
    promptTokensTotal: 0,
    generationTokensTotal: 0,
    preemptionsTotal: 0,
    prefixCacheQueriesTotal: 0,
    prefixCacheHitsTotal: 0,
    speculativeStepsTotal: 0,
    guessedTokensTotal: 0,
    keptTokensTotal: 0,
    stepsTotal: 0,
    requestsFinishedTotal: { stop: 0, length: 0, abort: 0, deadline: 0, error: 0 },
    lastStepAgeMs: null,
    kvCache: null,
    kvOffload: null,
    alive: true,
  };
  readonly info: EngineInfo = {
    kvCacheDtype: "fp8_e4m3",
    kvCacheDtypes: [{ dtype: "fp8_e4m3", pageSize: 16, numKvTokens: 1600, bytesPerToken: 23040 }],
    kvCacheDtypeReason: "given by --kv-cache-dtype",
    kvLayers: [{
      dtype: "fp8_e4m3",
      scales: { k: [1], v: [1], granularity: "tensor", source: "default" },
      kMean: null,
    }],
    kvScaleTokens: null,
    pageSize: 16,
    numPages: 100,
    numKvTokens: 1600,
    numHostPages: 0,
    kvBytesPerToken: 23040,
    kvBytesPerTokenBfloat16: 23040,
    weightBytes: 1000,
    maxModelLen: 256,
    maxNumSeqs: 16,
    maxNumBatchedTokens: 512,
    maxLogprobs: 20,
    numThreads: 2,
    device: { backend: "cpu", name: "Test CPU", isa: "avx2", whyCpu: null },
  };
  readonly ended = new Promise<null>(() => {});
  #waiters: (() => void)[] = [];

  submit(request: GenerationRequest, sink: Sink): () => void {
    if (this.refuseWith) throw this.refuseWith;
    const fake = new FakeRequest(request, sink);
    this.requests.push(fake);
    for (const wake of this.#waiters.splice(0)) wake();
    const { script } = this;
    if (script) queueMicrotask(() => script(fake));
    return () => {
      this.numAborts++;
      fake.isAborted = true;
      fake.end();
    };
  }

  /** Request number `index` once it was submitted. */
  async submitted(index = 0): Promise<FakeRequest> {
    while (this.requests[index] === undefined) await new Promise<void>((resolve) => this.#waiters.push(resolve));
    return this.requests[index];
  }

  /** Answers a comparison; tests set it. */
  compare: Engine["compareKv"] = () => Promise.reject(new Error("no comparison is expected"));

  compareKv(request: KvCompareRequest, signal?: AbortSignal): Promise<KvCompareResult> {
    return this.compare(request, signal);
  }

  stats(): EngineStats {
    return this.currentStats;
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/**
 * Answers each sequence with a text, one token a step; the sequences of a request move together.
 *
 * @param text By the sequence's index when it is a function.
 */
export function reply(text: string | ((index: number) => string)): (request: FakeRequest) => Promise<void> {
  return async (fake) => {
    const { n, maxTokens, logprobs, promptLogprobs } = fake.request.sampling;
    if (promptLogprobs !== null) {
      fake.sink.promptLogprobs?.(fake.request.promptTokenIds.map((tokenId, i) => {
        return i === 0 ? null : { ...tokenLogprob(tokenId, promptLogprobs), logprob: -i, rank: i + 1 };
      }));
    }
    const sequences = Array.from({ length: n }, (_, index) => {
      const ids = [...encoder.encode(typeof text === "string" ? text : text(index)), TURN_END];
      return { index, ids: ids.slice(0, maxTokens), decoder: new TextDecoder(), isCut: ids.length > maxTokens };
    });
    for (let step = 0; sequences.some(({ ids }) => step < ids.length); step++) {
      fake.emit(
        ...sequences.filter(({ ids }) => step < ids.length).map(({ index, ids, decoder, isCut }) => {
          const id = ids[step]!;
          const isLast = step === ids.length - 1;
          const finishReason: FinishReason | null = isLast ? (isCut ? "length" : "stop") : null;
          const bytes = id < BOS ? Uint8Array.of(id) : new Uint8Array();
          return {
            index,
            text: decoder.decode(bytes, { stream: !isLast }),
            tokenIds: [id],
            logprobs: logprobs === null ? null : [tokenLogprob(id, logprobs)],
            finishReason,
          };
        }),
      );
      await Promise.resolve();
    }
    fake.end();
  };
}

function tokenLogprob(tokenId: number, numTop: number): TokenLogprob {
  const top = Array.from({ length: numTop }, (_, i) => ({
    tokenId: i === 0 ? tokenId : 65 + i,
    logprob: i === 0 ? -0.5 : i === 1 ? -2 : -Infinity,
  }));
  return { tokenId, logprob: -0.5, top };
}

function tokenTable(): TokenTable {
  const texts = [
    ...Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte)),
    ...SPECIAL_TEXTS.map((t) => encoder.encode(t)),
  ];
  const offsets = new Int32Array(texts.length + 1);
  texts.forEach(({ length }, i) => offsets[i + 1] = offsets[i]! + length);
  const bytes = new Uint8Array(offsets.at(-1)!);
  texts.forEach((text, i) => bytes.set(text, offsets[i]));
  return { bytes, offsets, flags: Uint8Array.from(texts, (_, i) => i >= BOS ? 1 : 0), stripFirstSpace: false };
}

/** Bytes as tokens, special tokens written out recognised. */
export function fakeTokenizer(): Tokenizer & { numEncodings: number } {
  const table = tokenTable();
  return {
    numEncodings: 0,
    vocabSize: BOS + SPECIAL_TEXTS.length,
    bosTokenId: BOS,
    table,
    encode(text, { addSpecialTokens = true } = {}) {
      this.numEncodings++;
      if (!text.isWellFormed()) throw new TypeError("Cannot encode half a surrogate pair");
      const parts = text.split(/(<s>|<\|start\|>|<\|end\|>)/);
      const ids = parts.flatMap((part) => {
        const special = SPECIAL_TEXTS.indexOf(part);
        return special >= 0 ? [BOS + special] : [...encoder.encode(part)];
      });
      return addSpecialTokens ? [BOS, ...ids] : ids;
    },
    decode(ids, { skipSpecialTokens = true } = {}) {
      const kept = skipSpecialTokens ? ids.filter((id) => id < BOS) : ids;
      return new TextDecoder().decode(Uint8Array.from(kept.flatMap((id) => {
        return [...table.bytes.slice(table.offsets[id], table.offsets[id + 1])];
      })));
    },
    idToToken(id) {
      return id < BOS ? String.fromCharCode(id) : SPECIAL_TEXTS[id - BOS];
    },
  };
}

/** `<|start|>role: content<|end|>` for each message. */
export const fakeTemplate: ChatTemplate = {
  source: "",
  render(messages, { addGenerationPrompt = true, variables = {} } = {}) {
    if (messages[0]?.role === "assistant") throw new Error("Conversations begin with the user");
    const turns = messages.map(({ role, content }) => `<|start|>${role}: ${content}<|end|>`).join("");
    return (variables["prefix"] ?? "") + turns + (addGenerationPrompt ? "<|start|>assistant:" : "");
  },
};

/** An app over a fake engine. */
export function fakeApp(overrides: Partial<ServerContext> = {}) {
  const engine = new FakeEngine();
  const tokenizer = fakeTokenizer();
  const app = createApp({
    engine,
    modelNames: ["demo", "org/demo"],
    tokenizer,
    chatTemplate: fakeTemplate,
    generationDefaults: { temperature: 0.6, topK: 20 },
    version: "0.1.0",
    createdAt: 1_700_000_000,
    ...overrides,
  });
  return { app, engine, tokenizer };
}

type App = ReturnType<typeof fakeApp>["app"];

/** Posts JSON. */
export async function post(app: App, path: string, body: unknown, init: RequestInit = {}): Promise<Response> {
  return await app.request(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: typeof body === "string" ? body : JSON.stringify(body),
    ...init,
  });
}

export const USER_MESSAGE = { role: "user", content: "Hi" };

/** The data of a stream's events, parsed; "[DONE]" stays as it is. */
// deno-lint-ignore no-explicit-any
export function events(text: string): any[] {
  return text.split("\n\n").filter((event) => event.startsWith("data: ")).map((event) => {
    const data = event.slice("data: ".length);
    return data === "[DONE]" ? data : JSON.parse(data);
  });
}
