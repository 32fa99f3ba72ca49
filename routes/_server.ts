/**
 * What all handlers share: the context with its defaults filled in, and facts derived from it once.
 *
 * @module
 */

import { STATUS_CODE } from "@std/http/status";
import type { ServerContext } from "./context.ts";
import { ApiError } from "./errors.ts";
import { Metrics } from "./metrics.ts";
import { TokenTexts } from "./_logprobs.ts";

/** Largest request body where the context says nothing. */
export const DEFAULT_MAX_BODY_BYTES = 10 * 1024 * 1024;

type Complete<T> = { readonly [K in keyof T]-?: Exclude<T[K], undefined> };

/** Shared by all handlers of one app. */
export interface Server extends Complete<Omit<ServerContext, "apiKeys" | "corsOrigins">> {
  readonly asksForKey: boolean;
  readonly metrics: Metrics;
  readonly tokenTexts: TokenTexts;
  readonly gate: Gate;
  readonly systemFingerprint: string;
}

/** Fills in the context's defaults. */
export function createServer(context: ServerContext): Server {
  const maxConcurrentRequests = context.maxConcurrentRequests ?? 1024;
  return {
    engine: context.engine,
    modelNames: context.modelNames,
    tokenizer: context.tokenizer,
    promptEncoder: context.promptEncoder ??
      { encode: (text, options) => Promise.resolve(context.tokenizer.encode(text, options)) },
    chatTemplate: context.chatTemplate,
    generationDefaults: context.generationDefaults,
    version: context.version,
    createdAt: context.createdAt,
    maxBodyBytes: context.maxBodyBytes ?? DEFAULT_MAX_BODY_BYTES,
    maxConcurrentRequests,
    maxBufferedBytes: context.maxBufferedBytes ?? 1024 * 1024,
    keepAliveMs: context.keepAliveMs ?? 15_000,
    stallMs: context.stallMs ?? 120_000,
    deadlineMs: context.deadlineMs ?? null,
    separatesReasoning: context.separatesReasoning ?? true,
    enablesKvCompare: context.enablesKvCompare ?? false,
    isDraining: context.isDraining ?? (() => false),
    asksForKey: (context.apiKeys ?? []).length > 0,
    metrics: new Metrics(context.engine, context.modelNames[0]),
    tokenTexts: new TokenTexts(context.tokenizer.table),
    gate: new Gate(maxConcurrentRequests),
    systemFingerprint: `octavo-${context.version}`,
  };
}

/** Bounds how many requests are open at once. */
export class Gate {
  readonly #limit: number;
  #open = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /**
   * Lets a request in.
   *
   * @returns To be called when the request is over; calls after the first do nothing.
   * @throws {ApiError} 429 when the limit is reached.
   */
  enter(): () => void {
    if (this.#open >= this.#limit) {
      throw new ApiError(
        STATUS_CODE.TooManyRequests,
        `The server handles at most ${this.#limit} requests at once, all of which are taken`,
        { code: "rate_limit_exceeded", retryAfterS: 1 },
      );
    }
    this.#open++;
    let left = false;
    return () => {
      if (!left) this.#open--;
      left = true;
    };
  }
}
