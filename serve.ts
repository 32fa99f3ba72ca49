/**
 * `serve()`: a model, an engine and the HTTP app, listening.
 *
 * @module
 */

import { startEngine } from "./engine/start_engine.ts";
import { describeKvScales } from "./engine/kv_scales.ts";
import type { Engine } from "./engine/types.ts";
import { BackgroundTokenizer } from "./models/background_tokenizer.ts";
import { withChatTemplate } from "./models/chat_template_file.ts";
import { fetchDemoModel } from "./models/demo.ts";
import { openModel } from "./models/open_model.ts";
import { type ProgressListener, progressPrinter } from "./models/progress.ts";
import type { ModelFiles } from "./models/types.ts";
import { OPTIONS, type Options } from "./options.ts";
import { type ApiKey, readApiKeys } from "./routes/api_keys.ts";
import { createApp } from "./routes/app.ts";
import { curlExample } from "./routes/curl_example.ts";
import { VERSION } from "./version.ts";

/** Options of {@linkcode serve}; those left out have the defaults of `--help`. */
export interface ServeOptions extends Partial<Options> {
  /** A .gguf file, a Hugging Face folder, or org/name[:quantization][@revision]; the demo model by default. */
  readonly model?: string | undefined;
  /** Receives the start-up report and, should the engine fail, a line about that; printed to stderr by default. */
  readonly log?: (report: string) => void;
  /** Told how far fetching and loading have come; drawn on stderr by default, unless `log` is given. */
  readonly onProgress?: ProgressListener;
  /** How long running requests may take to finish after `close()`, in milliseconds. Default 30,000. */
  readonly drainMs?: number;
}

/** How long a server whose engine has failed still answers (with 503), so that every client hears why: milliseconds. */
const FAILURE_GRACE_MS = 2000;

/** A listening server. */
export interface Server extends AsyncDisposable {
  /** For example "http://127.0.0.1:8000". */
  readonly url: string;
  /** The engine behind it, for its facts and counters. */
  readonly engine: Engine;
  /** Resolves when the server has shut down: after `close()`, or within seconds of the engine's failure (`engine.ended`). */
  readonly finished: Promise<void>;
  /** Refuses new connections, lets running requests finish for `drainMs`, then ends them. Idempotent. */
  close(): Promise<void>;
}

/** The server's address cannot be listened on; the message says why. */
export class ListenError extends Error {
  override readonly name = "ListenError";
}

/**
 * Opens a model and serves it over HTTP in OpenAI's format.
 *
 * @throws {ListenError} The address cannot be listened on; seen before the model is loaded.
 * @throws {ModelNotFoundError | ModelFileError | HubError | FetchError} The model cannot be had or read.
 * @throws {RangeError} A setting is out of its range.
 * @throws {EngineError} The native library, the weights or the KV cache could not be set up.
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
  // A model may take minutes to load: a port that is taken is better found before.
  listening(settings, () => Deno.listen({ hostname: settings.host, port: settings.port }).close());
  const apiKeys = acceptedKeys(settings);
  const { loadFormat } = settings;
  const opened = await openModel(source ?? await fetchDemoModel({ onProgress }), { onProgress, loadFormat });
  const model = settings.chatTemplate === null ? opened : withChatTemplate(opened, settings.chatTemplate);
  const engine = await startEngine({
    model,
    ...settings,
    numThreads: settings.threads,
    onProgress,
  });
  try {
    return listen({ model, engine, settings, apiKeys, log, drainMs });
  } catch (error) {
    await engine.close();
    throw error;
  }
}

interface Listening {
  readonly model: ModelFiles;
  readonly engine: Engine;
  readonly settings: Options;
  readonly apiKeys: readonly ApiKey[];
  readonly log: (report: string) => void;
  readonly drainMs: number;
}

function listen({ model, engine, settings, apiKeys, log, drainMs }: Listening): Server {
  const [first = model.name, ...others] = settings.servedModelName ?? [];
  const modelNames = [first, ...others] as const;
  let isDraining = false;
  const { source } = model;
  const promptEncoder = new BackgroundTokenizer(model.tokenizer, { source, loadFormat: settings.loadFormat });
  const app = createApp({
    engine,
    modelNames,
    tokenizer: model.tokenizer,
    promptEncoder,
    chatTemplate: model.chatTemplate,
    generationDefaults: model.generationDefaults,
    apiKeys,
    corsOrigins: settings.corsOrigins ?? [],
    version: VERSION,
    createdAt: Math.floor(Date.now() / 1000),
    // The engine's queue is the bound, which tenants may make twice as long: the routes' own must not come before it.
    maxConcurrentRequests: settings.maxQueuedRequests * (apiKeys.length > 1 ? 2 : 1) + engine.info.maxNumSeqs,
    deadlineMs: settings.deadlineMs,
    separatesReasoning: settings.separateReasoning,
    enablesKvCompare: settings.enableKvCompare,
    isDraining: () => isDraining,
  });
  const http = listening(
    settings,
    () => Deno.serve({ hostname: settings.host, port: settings.port, onListen: () => {} }, app.fetch),
  );
  const { hostname, port } = http.addr;
  const url = `http://${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`;
  const example = {
    origin: url,
    modelName: first,
    canChat: model.chatTemplate !== null,
    asksForKey: apiKeys.length > 0,
  };
  log(`${report(model, engine, first, url)}\nTry it:\n  ${curlExample(example).replaceAll("\n", "\n  ")}`);

  let closing: Promise<void> | null = null;
  const close = () =>
    closing ??= (async () => {
      isDraining = true;
      const drained = http.shutdown();
      const timer = setTimeout(() => engine.close(), drainMs);
      await drained;
      clearTimeout(timer);
      promptEncoder[Symbol.dispose]();
      await engine.close();
    })();
  engine.ended.then((failure) => {
    if (failure === null) return;
    log(`${failure.message}. Every request has ended with an error; the server ends in ${FAILURE_GRACE_MS / 1000} s`);
    setTimeout(close, FAILURE_GRACE_MS);
  });
  return { url, engine, finished: http.finished, close, [Symbol.asyncDispose]: close };
}

/** Those of the file, and the one of the command line, whose tenant is "default" of weight 1. */
function acceptedKeys({ apiKey, apiKeyFile }: Options): ApiKey[] {
  const keys = apiKeyFile === null ? [] : readApiKeys(apiKeyFile);
  return apiKey === null ? keys : [...keys, { key: apiKey, tenant: { name: "default", weight: 1 } }];
}

/** Runs what listens. @throws {ListenError} It cannot, with the reason in words. */
function listening<T>({ host, port }: Options, listen: () => T): T {
  try {
    return listen();
  } catch (error) {
    const reason = error instanceof Deno.errors.AddrInUse
      ? "the port is in use; choose another with --port, or 0 for any"
      : error instanceof Deno.errors.AddrNotAvailable
      ? "this machine has no such address; --host 0.0.0.0 is every one it has"
      : error instanceof Deno.errors.PermissionDenied
      ? "the system does not allow it; ports below 1024 are for the root user"
      : (error as Error).message;
    throw new ListenError(`Cannot listen on ${host.includes(":") ? `[${host}]` : host}:${port}: ${reason}`, {
      cause: error,
    });
  }
}

/** The start-up report: what is served, how the cache is stored and why, and how much it holds. */
function report(model: ModelFiles, engine: Engine, name: string, url: string): string {
  const { info } = engine;
  const number = (value: number) => Math.floor(value).toLocaleString("en");
  const cacheBytes = info.numKvTokens * info.kvBytesPerToken;
  const threads = info.device.backend === "cpu" ? `, ${info.numThreads} threads` : "";
  const whyCpu = info.device.whyCpu === null ? "" : `; not on a GPU: ${info.device.whyCpu}`;
  const bfloat16 = info.kvBytesPerToken < info.kvBytesPerTokenBfloat16
    ? ` (bfloat16 would hold ${number(cacheBytes / info.kvBytesPerTokenBfloat16)})`
    : "";
  const lines = [
    `Octavo ${VERSION} serves ${name} at ${url}`,
    `device    ${info.device.name} (${info.device.backend}, ${info.device.isa}${threads})${whyCpu}`,
    `weights   ${formatBytes(info.weightBytes)}, ${model.config.architecture}, ${model.source}`,
    `KV cache  ${info.kvCacheDtype} (${info.kvCacheDtypeReason}): ${number(info.numKvTokens)} tokens in ` +
    `${formatBytes(cacheBytes)}${bfloat16}, ${number(info.numKvTokens / info.maxModelLen)} sequences of ` +
    number(info.maxModelLen),
  ];
  for (const { dtype, numKvTokens, bytesPerToken } of info.kvCacheDtypes.slice(1)) {
    lines.push(`KV or     ${dtype} in the same pages: ${number(numKvTokens)} tokens of ${number(bytesPerToken)} bytes`);
  }
  if (info.numHostPages > 0) {
    const numTokens = info.numHostPages * info.pageSize;
    lines.push(
      `KV host   ${number(numTokens)} tokens more in ${formatBytes(numTokens * info.kvBytesPerToken)} of memory`,
    );
  }
  const scales = describeKvScales(info.kvLayers.map((layer) => layer.scales));
  if (scales !== null) lines.push(`KV scales ${scales}`);
  return lines.join("\n  ");
}

/** Bytes for people, in powers of 1024. */
function formatBytes(bytes: number): string {
  const power = Math.min(4, Math.floor(Math.log2(Math.max(1, bytes)) / 10));
  return `${(bytes / 1024 ** power).toFixed(power === 0 ? 0 : 1)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
}
