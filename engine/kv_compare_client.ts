/**
 * Comparisons of two KV caches as the HTTP thread sees them: checks a request, hands it to the Worker, waits for its
 * answer. One at a time.
 *
 * @module
 */

import type { RequestLimits } from "./admission.ts";
import { EngineError, OverloadedError, RequestError } from "./errors.ts";
import type { KvVariant } from "./kv_comparison.ts";
import type { ComparedMessage, EngineMessage } from "./messages.ts";
import type { ComparedToken } from "./token_comparison.ts";
import { type KvCacheDtype, type KvCompareRequest, type KvCompareResult, MAX_COMPARED_TOKENS } from "./types.ts";

export interface KvCompareClientOptions {
  readonly post: (message: EngineMessage) => void;
  /** Names a comparison; never the same twice. */
  readonly nextKey: () => number;
  readonly limits: Pick<RequestLimits, "maxModelLen" | "vocabSize">;
  /** The engine's own. */
  readonly ownDtype: KvCacheDtype;
  /** See `EngineClientOptions`. */
  readonly kvVariant: (dtype: string | null) => KvVariant;
}

export class KvCompareClient {
  readonly #options: KvCompareClientOptions;
  #pending: { readonly key: number; readonly answer: PromiseWithResolvers<readonly ComparedToken[]> } | null = null;

  constructor(options: KvCompareClientOptions) {
    this.#options = options;
  }

  /** See `Engine.compareKv`. */
  async compare(request: KvCompareRequest, signal?: AbortSignal): Promise<KvCompareResult> {
    const { post, nextKey, ownDtype } = this.#options;
    this.#check(request);
    const reference = this.#variant("reference", request.reference);
    const other = this.#variant("kv_cache_dtype", request.kvCacheDtype ?? ownDtype);
    if (reference.dtype === other.dtype) {
      const message = `The two KV caches to compare must differ, received ${other.dtype} twice`;
      throw new RequestError(message, { param: "kv_cache_dtype" });
    }
    if (this.#pending !== null) throw new OverloadedError("A comparison of KV caches is under way; one runs at a time");
    signal?.throwIfAborted();
    const key = nextKey();
    const answer = Promise.withResolvers<readonly ComparedToken[]>();
    this.#pending = { key, answer };
    const prompt = Int32Array.from(request.promptTokenIds);
    post({ type: "compare", key, variants: [reference, other], prompt, maxTokens: request.maxTokens });
    const abort = () => {
      if (this.#pending?.key !== key) return;
      this.#pending = null;
      post({ type: "abort", key });
      answer.reject(signal?.reason);
    };
    signal?.addEventListener("abort", abort, { once: true });
    try {
      return { reference: reference.dtype, kvCacheDtype: other.dtype, tokens: await answer.promise };
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }

  /** The Worker's answer; one to a comparison that was aborted is dropped. */
  receive({ key, tokens, error }: ComparedMessage): void {
    if (this.#pending?.key !== key) return;
    const { answer } = this.#pending;
    this.#pending = null;
    if (tokens !== null) answer.resolve(tokens);
    else if (error!.isOutOfMemory) {
      answer.reject(new OverloadedError(`There is not enough memory to compare KV caches: ${error!.message}`));
    } else answer.reject(new Error(`Cannot compare KV caches: ${error!.message}`));
  }

  /** The engine is gone. */
  end(reason: string): void {
    this.#pending?.answer.reject(new EngineError(reason));
    this.#pending = null;
  }

  #check({ promptTokenIds, maxTokens }: KvCompareRequest): void {
    const { maxModelLen, vocabSize } = this.#options.limits;
    if (promptTokenIds.length === 0) throw new RequestError("The prompt has no tokens", { param: "prompt" });
    const wrong = promptTokenIds.find((id) => !(Number.isInteger(id) && id >= 0 && id < vocabSize));
    if (wrong !== undefined) {
      const message = `The prompt's token ids must be integers 0 to ${vocabSize - 1}, received ${wrong}`;
      throw new RequestError(message, { param: "prompt" });
    }
    const most = Math.min(MAX_COMPARED_TOKENS, maxModelLen);
    const needed = promptTokenIds.length + maxTokens;
    if (needed <= most) return;
    throw new RequestError(
      `A comparison holds ${most} tokens, the request needs ${needed} (${promptTokenIds.length} of prompt, ` +
        `${maxTokens} of output)`,
      { param: "prompt", code: "context_length_exceeded" },
    );
  }

  #variant(param: string, dtype: string | null): KvVariant {
    try {
      return this.#options.kvVariant(dtype);
    } catch (error) {
      throw new RequestError(`${param}: ${(error as Error).message}`, { param });
    }
  }
}
