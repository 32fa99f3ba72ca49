/**
 * `serve()`: a model, an engine and the HTTP app, listening.
 *
 * @module
 */

import { startEngine } from "./engine/start_engine.ts";
import type { Engine } from "./engine/types.ts";
import { fetchDemoModel } from "./models/demo.ts";
import { openModel } from "./models/open_model.ts";
import { type ProgressListener, progressPrinter } from "./models/progress.ts";
import type { ModelFiles } from "./models/types.ts";
import { OPTIONS, type Options } from "./options.ts";
import { createApp } from "./routes/app.ts";
import { VERSION } from "./version.ts";

/** Options of {@linkcode serve}; those left out have the defaults of `--help`. */
export interface ServeOptions extends Partial<Options> {
  /** A .gguf file, a Hugging Face folder, or org/name[@revision]; the demo model by default. */
  readonly model?: string | undefined;
  /** Receives the start-up report; printed to stderr by default. */
  readonly log?: (report: string) => void;
  /** Told how far fetching and loading have come; drawn on stderr by default, unless `log` is given. */
  readonly onProgress?: ProgressListener;
  /** How long running requests may take to finish after `close()`, in milliseconds. Default 30,000. */
  readonly drainMs?: number;
}

/** A listening server. */
export interface Server extends AsyncDisposable {
  /** For example "http://127.0.0.1:8000". */
  readonly url: string;
  readonly engine: Engine;
  /** Resolves when the server has shut down. */
  readonly finished: Promise<void>;
  /** Refuses new connections, lets running requests finish for `drainMs`, then ends them. Idempotent. */
  close(): Promise<void>;
}

/**
 * Opens a model and serves it over HTTP in OpenAI's format.
 *
 * @example
 * ```ts ignore
 * import { serve } from "@octavo/octavo";
 *
 * await using server = await serve({ kvCacheDtype: "fp8", port: 9000 });
 * await server.finished;
 * ```
 */
export async function serve(options: ServeOptions = {}): Promise<Server> {
  const { log = (report: string) => console.error(report), drainMs = 30_000, model: source, ...given } = options;
  const defaults = Object.fromEntries(Object.entries(OPTIONS).map(([key, option]) => [key, option.default]));
  const settings = { ...defaults, ...given } as Options;
  const onProgress = options.onProgress ?? (options.log === undefined ? progressPrinter() : () => {});
  const model = await openModel(source ?? await fetchDemoModel({ onProgress }), { onProgress });
  const engine = await startEngine({
    model,
    ...settings,
    numThreads: settings.threads,
    onProgress,
  });
  try {
    return listen({ model, engine, settings, log, drainMs });
  } catch (error) {
    await engine.close();
    throw error;
  }
}

interface Listening {
  readonly model: ModelFiles;
  readonly engine: Engine;
  readonly settings: Options;
  readonly log: (report: string) => void;
  readonly drainMs: number;
}

function listen({ model, engine, settings, log, drainMs }: Listening): Server {
  const [first = model.name, ...others] = settings.servedModelName ?? [];
  const modelNames = [first, ...others] as const;
  let isDraining = false;
  const app = createApp({
    engine,
    modelNames,
    tokenizer: model.tokenizer,
    chatTemplate: model.chatTemplate,
    generationDefaults: model.generationDefaults,
    ...(settings.apiKey === null ? {} : { apiKey: settings.apiKey }),
    version: VERSION,
    createdAt: Math.floor(Date.now() / 1000),
    isDraining: () => isDraining,
  });
  const http = Deno.serve({ hostname: settings.host, port: settings.port, onListen: () => {} }, app.fetch);
  const { hostname, port } = http.addr;
  const url = `http://${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`;
  log(report(model, engine, first, url));

  let closing: Promise<void> | null = null;
  const close = () =>
    closing ??= (async () => {
      isDraining = true;
      const drained = http.shutdown();
      const timer = setTimeout(() => engine.close(), drainMs);
      await drained;
      clearTimeout(timer);
      await engine.close();
    })();
  return { url, engine, finished: http.finished, close, [Symbol.asyncDispose]: close };
}

/** The start-up report: what is served, how the cache is stored and why, how much it holds, and what to try. */
function report(model: ModelFiles, engine: Engine, name: string, url: string): string {
  const { info } = engine;
  const cacheBytes = info.numKvTokens * info.kvBytesPerToken;
  const longest = Math.floor(info.numKvTokens / info.maxModelLen);
  const body = model.chatTemplate === null
    ? `/v1/completions -H 'content-type: application/json' \\\n    -d '{"model": "${name}", "prompt": "London is", "max_tokens": 32}'`
    : `/v1/chat/completions -H 'content-type: application/json' \\\n    -d '{"model": "${name}", "messages": [{"role": "user", "content": "Hello!"}], "stream": true}'`;
  return `Octavo ${VERSION} serves ${name} at ${url}
  device    ${info.device.name} (${info.device.backend}, ${info.device.isa}, ${info.numThreads} threads)
  weights   ${formatBytes(info.weightBytes)}, ${model.config.architecture}, ${model.source}
  KV cache  ${info.kvCacheDtype} (${info.kvCacheDtypeReason}): ${info.numKvTokens.toLocaleString("en")} tokens in ${
    formatBytes(cacheBytes)
  }, ${longest} sequences of ${info.maxModelLen.toLocaleString("en")}
Try it:
  curl -N ${url}${body}`;
}

/** Bytes for people, in powers of 1024. */
function formatBytes(bytes: number): string {
  const power = Math.min(4, Math.floor(Math.log2(Math.max(1, bytes)) / 10));
  return `${(bytes / 1024 ** power).toFixed(power === 0 ? 0 : 1)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
}
