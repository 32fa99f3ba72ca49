/**
 * Octavo: an OpenAI-compatible LLM inference server for Deno with an FP8 KV cache, as a library and a command line.
 *
 * @example Offline
 * ```ts ignore
 * import { LLM } from "@octavo/octavo";
 *
 * await using llm = await LLM.load({ kvCacheDtype: "fp8" });
 * const [out] = await llm.generate("London is the capital of", { temperature: 0.7, topP: 0.8 });
 * console.log(out.outputs[0].text);
 * ```
 *
 * @example Serving
 * ```sh
 * deno run --allow-ffi=build --allow-read --allow-env --allow-net mod.ts serve model.gguf --kv-cache-dtype fp8
 * ```
 *
 * @module
 */

export * from "./llm.ts";
export { ListenError, serve, type ServeOptions, type Server } from "./serve.ts";
export type { Options } from "./options.ts";
export { VERSION } from "./version.ts";

// What those take, give and throw.
export type { Collected, CompletionOutput } from "./engine/collect.ts";
export { EngineError, OverloadedError, RequestError } from "./engine/errors.ts";
export type { KvCacheDtypeName, KvCacheMemory, SkippedLayer } from "./engine/kv_cache_plan.ts";
export type { SamplingOptions } from "./engine/sampling_params.ts";
export type {
  Delta,
  Engine,
  EngineInfo,
  EngineStats,
  FinishReason,
  GenerationRequest,
  KvCacheDtype,
  KvCacheStats,
  KvDtypeInfo,
  KvOffloadStats,
  KvPartStats,
  PromptLogprob,
  SamplingParams,
  Sink,
  TokenLogprob,
  Usage,
} from "./engine/types.ts";
export type { Device } from "./ffi/library_search.ts";
export { TemplateError } from "./models/chat_template.ts";
export { ModelFileError } from "./models/errors.ts";
export { HubError } from "./models/hub_error.ts";
export { ModelNotFoundError } from "./models/open_model.ts";
export { FetchError } from "./models/packaged_model.ts";
export type { Progress, ProgressListener } from "./models/progress.ts";
export type { ChatMessage, GenerationDefaults, Tokenizer, TokenTable } from "./models/types.ts";

import { main } from "./cli.ts";

if (import.meta.main) Deno.exit(await main(Deno.args));
