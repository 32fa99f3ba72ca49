/**
 * The server's options: one table from which flags, environment variables, `--help` and the documentation come.
 *
 * @module
 */

import { parseArgs } from "@std/cli";
import {
  KV_CACHE_DTYPE_NAMES,
  type KvCacheDtypeName,
  type KvCacheMemory,
  type SkippedLayer,
} from "./engine/kv_cache_plan.ts";
import { KV_SCALE_TOKENS } from "./engine/kv_scale_window.ts";
import { BACKENDS } from "./ffi/library_search.ts";
import { LOAD_FORMATS } from "./models/open_model.ts";

/** A command line that cannot be understood; the message names the option and the value found. */
export class OptionError extends RangeError {
  override readonly name = "OptionError";
}

/** One option: `--flag VALUE`, or the environment variable `OCTAVO_FLAG`. */
export interface OptionSpec<T> {
  readonly flag: string;
  /** What stands for the value in `--help`. */
  readonly value: string;
  /** What applies when neither flag nor variable is given; null = decided at start. */
  readonly default: T;
  /** How `--help` writes the default. */
  readonly defaultText: string;
  readonly help: string;
  /** @throws {RangeError} With what was expected. */
  readonly parse: (text: string) => T;
}

const DEVICES = ["auto", ...BACKENDS.toReversed()] as const;
const QUANTIZATIONS = ["none", "fp8"] as const;

/** All options, in the order of `--help`. */
export const OPTIONS = {
  host: text("host", "ADDRESS", "127.0.0.1", "Address to listen on; 0.0.0.0 for every interface"),
  port: integer("port", "N", 8000, 0, 65535, "Port to listen on; 0 lets the system choose"),
  apiKey: optional("api-key", "KEY", "no key", "Key that clients must send as a bearer token"),
  apiKeyFile: optional(
    "api-key-file",
    "FILE",
    "none",
    'File of more keys, with shares of the engine: JSON [{"name": "a", "key": "...", "weight": 2}]',
  ),
  corsOrigins: list(
    "cors-origins",
    "ORIGINS",
    "none",
    "Comma-separated origins whose pages may call the server from a browser, for example https://chat.example; * for all",
  ),
  servedModelName: list("served-model-name", "NAMES", "the model's name", "Comma-separated names for the API's model"),
  chatTemplate: optional(
    "chat-template",
    "FILE",
    "the model's",
    "Jinja file that renders conversations, instead of the model's own template",
  ),
  separateReasoning: toggle(
    "separate-reasoning",
    "Return a chat answer's <think>...</think> as reasoning_content, unless the request says otherwise",
    true,
  ),
  device: choice("device", DEVICES, "auto", "Where to run; auto = on a GPU where there is one, else on the CPU"),
  loadFormat: choice(
    "load-format",
    LOAD_FORMATS,
    "auto",
    "Where the weights come from; dummy makes them up for a folder with config.json, to measure speed and memory",
  ),
  quantization: choice(
    "quantization",
    QUANTIZATIONS,
    "none",
    "What a GPU makes of the layers' matrices; fp8 = E4M3 with a scale a row",
  ),
  gpuMemoryUtilization: spec(
    "gpu-memory-utilization",
    "FRACTION",
    0.9,
    "0.9",
    "Of a GPU's memory, what weights, steps and KV cache may take together",
    (text) => {
      const fraction = Number(text);
      if (text.trim() === "" || !(fraction > 0 && fraction <= 1)) {
        throw new RangeError("expected a fraction above 0 and at most 1");
      }
      return fraction;
    },
  ),
  kvCacheDtype: choice(
    "kv-cache-dtype",
    KV_CACHE_DTYPE_NAMES,
    "auto",
    "How the KV cache is stored; auto = the model's dtype",
  ),
  kvCacheDtypes: spec<readonly KvCacheDtypeName[] | null>(
    "kv-cache-dtypes",
    "NAMES",
    null,
    "--kv-cache-dtype alone",
    "Comma-separated dtypes that requests may choose by kv_cache_dtype; the first is the default",
    parseKvCacheDtypes,
  ),
  kvCacheDtypeSkipLayers: spec<readonly SkippedLayer[]>(
    "kv-cache-dtype-skip-layers",
    "LAYERS",
    [],
    "none",
    "Layers that keep the model's dtype: comma-separated numbers from 0, or sliding_window for all that have one",
    parseLayers,
  ),
  kvScales: optional(
    "kv-scales",
    "FILE",
    "the checkpoint's, else 1",
    "File of scales for an FP8 cache (safetensors or JSON), used before the checkpoint's",
  ),
  strictKvScales: toggle("strict-kv-scales", "Missing or unusable scales of an FP8 cache are an error, not a warning"),
  calculateKvScales: toggle(
    "calculate-kv-scales",
    "Set the FP8 cache's scales from the first requests' values, once, where no file brings any",
  ),
  calculateKvScalesTokens: integer(
    "calculate-kv-scales-tokens",
    "N",
    KV_SCALE_TOKENS,
    1,
    2 ** 30,
    "Tokens from which --calculate-kv-scales sets the scales for good",
  ),
  kvCacheStats: toggle(
    "kv-cache-stats",
    "Count magnitudes, saturated elements and sampled errors of what the KV cache stores, for /v1/kv and /metrics",
  ),
  checkPages: toggle(
    "check-pages",
    "For finding faults: compare checksums of shared KV pages, which is slow; the engine fails when one changes",
  ),
  kvCacheMemory: spec<KvCacheMemory | null>(
    "kv-cache-memory",
    "SIZE",
    null,
    "what --gpu-memory-utilization leaves; 0.25 on a CPU",
    "Memory for the KV cache: bytes (2GiB, 512MiB, 1000000) or a fraction of what is free (0.25); never more than can be used",
    parseMemory,
  ),
  kvOffloadMemory: spec<number | null>(
    "kv-offload-memory",
    "SIZE",
    null,
    "none",
    "Host memory that keeps KV pages of prompts for which the cache has no room (8GiB): they come back faster than they are computed",
    parseBytes,
  ),
  maxModelLen: optionalInteger(
    "max-model-len",
    "TOKENS",
    "the model's",
    2 ** 31 - 1,
    "Longest sequence, prompt and output together",
  ),
  maxNumSeqs: optionalInteger(
    "max-num-seqs",
    "N",
    "256 on a GPU, 16 on a CPU",
    4096,
    "Sequences that run at the same time",
  ),
  maxNumBatchedTokens: optionalInteger(
    "max-num-batched-tokens",
    "N",
    "2048 on a GPU, 256 on a CPU",
    1 << 20,
    "Tokens of one step (the token budget). Not given, a GPU takes fewer in steps that decode",
  ),
  maxQueuedRequests: integer("max-queued-requests", "N", 1024, 1, 1 << 20, "Requests that may wait; more get a 429"),
  deadlineMs: optionalInteger(
    "deadline-ms",
    "MS",
    "never",
    2 ** 31 - 1,
    "Milliseconds after which a request that names no deadline_ms is ended, waiting or running",
  ),
  pageSize: spec("page-size", "16|32|64", 16, "16", "Tokens of a KV page", (value) => {
    if (!/^(16|32|64)$/.test(value)) throw new RangeError("expected 16, 32 or 64");
    return Number(value);
  }),
  enablePrefixCaching: toggle(
    "enable-prefix-caching",
    "Keep the KV pages of prompts, so that equal beginnings are computed once",
    true,
  ),
  numSpeculativeTokens: optionalInteger(
    "num-speculative-tokens",
    "N",
    "4 on a CPU, 0 on a GPU",
    32,
    "Most tokens guessed for a sequence from its own text and checked in one step, which changes no output; 0: none",
    0,
  ),
  promptLookupMin: integer(
    "prompt-lookup-min",
    "N",
    3,
    1,
    32,
    "Tokens that must have stood in a text before, for those that followed to be guessed",
  ),
  enableKvCompare: toggle(
    "enable-kv-compare",
    "Serve POST /v1/kv/compare, which takes memory and time from other requests while it runs",
  ),
  threads: integer("threads", "N", 0, 0, 1024, "Threads for computing; 0 = one for each physical core"),
} as const;

/** Parsed options. */
export type Options = { -readonly [K in keyof typeof OPTIONS]: ReturnType<(typeof OPTIONS)[K]["parse"]> };

/** What a command line holds. */
export interface CommandLine {
  readonly options: Options;
  /** Which options were given, by flag or variable. */
  readonly given: ReadonlySet<keyof Options>;
  /** The flags among them, each as `--flag=VALUE`: what hands them on to another process. */
  readonly flags: readonly string[];
  readonly positionals: readonly string[];
  readonly help: boolean;
  readonly version: boolean;
}

/** The environment variable of an option. */
export function variable(option: { readonly flag: string }): string {
  return `OCTAVO_${option.flag.replaceAll("-", "_").toUpperCase()}`;
}

/** Names of all environment variables read, for the permission list. */
export const VARIABLES: readonly string[] = Object.values(OPTIONS).map(variable);

/**
 * Reads flags, then environment variables, then defaults.
 *
 * @throws {OptionError} An unknown flag, or a value that does not fit.
 */
export function parseCommandLine(args: readonly string[], env: (name: string) => string | undefined): CommandLine {
  const unknown: string[] = [];
  const parsed = parseArgs([...args], {
    string: [...Object.values(OPTIONS).map((option) => option.flag), "_"],
    boolean: ["help", "version"],
    alias: { h: "help" },
    unknown: (name) => {
      if (name.startsWith("-")) unknown.push(name);
      return !name.startsWith("-");
    },
  });
  if (unknown.length > 0) {
    throw new OptionError(`Unknown option ${unknown[0]}; --help lists all options`);
  }
  const given = new Set<keyof Options>();
  const flags: string[] = [];
  const entries = Object.entries(OPTIONS).map(([key, option]) => {
    const flag = (parsed as Record<string, unknown>)[option.flag];
    const fromEnv = flag === undefined ? env(variable(option)) : undefined;
    const text = flag === undefined ? fromEnv : String(flag);
    if (text === undefined || (flag === undefined && text === "")) return [key, option.default];
    given.add(key as keyof Options);
    if (flag !== undefined) flags.push(`--${option.flag}=${text}`);
    try {
      return [key, option.parse(text)];
    } catch (error) {
      const name = flag === undefined ? variable(option) : `--${option.flag}`;
      throw new OptionError(`Cannot read ${name}: ${(error as Error).message}, received "${text}"`);
    }
  });
  return {
    options: Object.fromEntries(entries) as Options,
    given,
    flags,
    positionals: parsed._.map(String),
    help: Boolean(parsed["help"]),
    version: Boolean(parsed["version"]),
  };
}

/** The option lines of `--help`. */
export function describeOptions(): string {
  return Object.values(OPTIONS).map((option) =>
    `  --${option.flag} ${option.value}\n` +
    `        ${option.help}\n` +
    `        default: ${option.defaultText}; environment: ${variable(option)}`
  ).join("\n");
}

/** @throws {RangeError} Neither a size nor a fraction. */
export function parseMemory(value: string): KvCacheMemory {
  const match = value.trim().match(/^(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?)B?|B)?$/i);
  if (match === null) throw new RangeError("expected bytes such as 2GiB or a fraction such as 0.25");
  const [, digits = "", unit, binary] = match;
  const number = Number(digits);
  if (unit === undefined && digits.includes(".")) {
    if (number <= 0 || number > 1) throw new RangeError("expected a fraction above 0 and at most 1");
    return { fraction: number };
  }
  const power = unit === undefined ? 0 : "KMGT".indexOf(unit.toUpperCase()) + 1;
  const bytes = Math.floor(number * (binary ? 1024 : 1000) ** power);
  if (bytes < 1 || !Number.isSafeInteger(bytes)) throw new RangeError("expected a size from 1 byte to 8 PiB");
  return { bytes };
}

/** Bytes with or without a unit. @throws {RangeError} With what was expected. */
export function parseBytes(value: string): number {
  const memory = parseMemory(value);
  if ("fraction" in memory) throw new RangeError("expected bytes such as 8GiB");
  return memory.bytes;
}

function parseKvCacheDtypes(value: string): KvCacheDtypeName[] {
  return value.split(",").map((name) => {
    const found = KV_CACHE_DTYPE_NAMES.find((one) => one === name.trim());
    if (found === undefined) throw new RangeError(`expected names among ${KV_CACHE_DTYPE_NAMES.join(", ")}`);
    return found;
  });
}

function parseLayers(value: string): SkippedLayer[] {
  return value.split(",").map((name) => {
    const trimmed = name.trim();
    return trimmed === "sliding_window" ? trimmed : parseInteger(trimmed, 0, 65535);
  });
}

function spec<T>(
  flag: string,
  value: string,
  defaultValue: T,
  defaultText: string,
  help: string,
  parse: (text: string) => T,
): OptionSpec<T> {
  return { flag, value, default: defaultValue, defaultText, help, parse };
}

function text(flag: string, value: string, defaultValue: string, help: string) {
  return spec(flag, value, defaultValue, defaultValue, help, nonEmpty);
}

function optional(flag: string, value: string, defaultText: string, help: string) {
  return spec<string | null>(flag, value, null, defaultText, help, nonEmpty);
}

function list(flag: string, value: string, defaultText: string, help: string) {
  return spec<readonly string[] | null>(flag, value, null, defaultText, help, (text) => text.split(",").map(nonEmpty));
}

function toggle(flag: string, help: string, defaultValue = false) {
  return spec(flag, "[true|false]", defaultValue, `${defaultValue}`, help, (text) => {
    if (!/^(true|false|)$/.test(text)) throw new RangeError("expected true or false");
    return text !== "false";
  });
}

function integer(flag: string, value: string, defaultValue: number, low: number, high: number, help: string) {
  return spec(flag, value, defaultValue, `${defaultValue}`, help, (text) => parseInteger(text, low, high));
}

function optionalInteger(flag: string, value: string, defaultText: string, high: number, help: string, low = 1) {
  return spec<number | null>(flag, value, null, defaultText, help, (text) => parseInteger(text, low, high));
}

function choice<const C extends readonly string[]>(flag: string, choices: C, defaultValue: C[number], help: string) {
  return spec<C[number]>(flag, choices.join("|"), defaultValue, defaultValue, help, (text) => {
    if (!choices.includes(text)) throw new RangeError(`expected one of ${choices.join(", ")}`);
    return text;
  });
}

function nonEmpty(text: string): string {
  if (text.trim() === "") throw new RangeError("expected a value");
  return text.trim();
}

function parseInteger(text: string, low: number, high: number): number {
  if (!/^\d+$/.test(text) || Number(text) < low || Number(text) > high) {
    throw new RangeError(`expected an integer ${low} to ${high}`);
  }
  return Number(text);
}
