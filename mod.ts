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
export { serve, type ServeOptions, type Server } from "./serve.ts";
export { VERSION } from "./version.ts";

import { main } from "./cli.ts";

if (import.meta.main) Deno.exit(await main(Deno.args));
