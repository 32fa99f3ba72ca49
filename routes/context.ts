/**
 * What the routes need to know about the server they stand in.
 *
 * @module
 */

import type { Engine } from "../engine/types.ts";
import type { ApiKey } from "./api_keys.ts";
import type { AsyncEncoder, ChatTemplate, GenerationDefaults, Tokenizer } from "../models/types.ts";

/** Given to `createApp()`. */
export interface ServerContext {
  readonly engine: Engine;
  /** Names the model is served under; the first one is its id in responses to requests that name none. */
  readonly modelNames: readonly [string, ...string[]];
  readonly tokenizer: Tokenizer;
  /** Encodes prompts, with the same result as the tokenizer, which does it where this is left out. */
  readonly promptEncoder?: AsyncEncoder | undefined;
  /** Null: the model has none, and chat requests are refused. */
  readonly chatTemplate: ChatTemplate | null;
  /** Sampling defaults where a request is silent. */
  readonly generationDefaults: GenerationDefaults;
  /** With keys, every route but liveness asks for `Authorization: Bearer <key>` with one of them. Default none. */
  readonly apiKeys?: readonly ApiKey[] | undefined;
  /** Origins whose pages may call the server from a browser; "*" for all. Default none. */
  readonly corsOrigins?: readonly string[] | undefined;
  /** Octavo's version. */
  readonly version: string;
  /** When the model was loaded, in Unix seconds. */
  readonly createdAt: number;
  /** Largest request body, in bytes. Default 10 MiB. */
  readonly maxBodyBytes?: number | undefined;
  /** Generation requests that may be open at once; more are answered with 429. Default 1024. */
  readonly maxConcurrentRequests?: number | undefined;
  /** Bytes that may wait for a slow reader of a stream before it is cut off. Default 1 MiB. */
  readonly maxBufferedBytes?: number | undefined;
  /** A comment is sent on a stream that has been silent for this long, in milliseconds. Default 15 s. */
  readonly keepAliveMs?: number | undefined;
  /** Not ready when requests run and no step has ended for this long, in milliseconds. Default 120 s. */
  readonly stallMs?: number | undefined;
  /** Milliseconds from its arrival after which a request is ended that names no `deadline_ms`. Default null: never. */
  readonly deadlineMs?: number | null | undefined;
  /** True once the server finishes its requests and takes no more: not ready, but alive. */
  readonly isDraining?: (() => boolean) | undefined;
  /** Part reasoning from answers where a chat request does not say. Default true. */
  readonly separatesReasoning?: boolean | undefined;
  /** Serve `POST /v1/kv/compare`. Default false. */
  readonly enablesKvCompare?: boolean | undefined;
}
