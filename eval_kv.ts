/**
 * `octavo eval-kv`: what each KV cache dtype costs in quality, on the user's own text.
 *
 * @module
 */

import { type AccuracyReport, accuracyTable, reportChart, reportJson, retrievalTable } from "./_accuracy_report.ts";
import { parseFlags } from "./_flags.ts";
import { readSamples } from "./_samples.ts";
import { measureKvAccuracy } from "./engine/kv_accuracy.ts";
import { KV_CACHE_DTYPE_NAMES, type KvCacheDtypeName } from "./engine/kv_cache_plan.ts";
import { KvComparison, type KvVariant } from "./engine/kv_comparison.ts";
import { measureKvRetrieval, MIN_CONTEXT } from "./engine/kv_retrieval.ts";
import { fileVariants, kvVariant, possibleKvDtypes } from "./engine/kv_variants.ts";
import { loadModel } from "./engine/load_model.ts";
import { openDevice } from "./ffi/library.ts";
import { BACKENDS, type Device } from "./ffi/library_search.ts";
import { fetchDemoModel } from "./models/demo.ts";
import { openModel } from "./models/open_model.ts";
import type { ProgressListener } from "./models/progress.ts";
import type { ModelFiles } from "./models/types.ts";
import { OptionError } from "./options.ts";

export const EVAL_KV_HELP = `Usage: octavo eval-kv [MODEL] --data FILE|DIR [options]

Runs the data through several KV caches and compares each with an exact one: perplexity, KL divergence of the next token,
the same most likely token, and how long greedy decoding goes the same way. Prints a table and writes JSON and a chart.
A .txt file is one document, cut into samples; a line of a .jsonl file is one sample, {"text"}, {"messages"} or
{"token_ids"}; of a folder all such files are read, in the order of their names.

  --kv-cache-dtypes LIST   comma-separated; all that the model can have
  --reference DTYPE        float32 on a CPU, else the model's dtype
  --kv-scales FILES        comma-separated; for each one more fp8_e4m3 cache with its scales, and where it has means of K
                           one more int8, k8v4 and int4 cache
  --samples N              8; at most so many
  --max-seq-len N          1024; tokens of a sample
  --greedy-tokens N        64; decoded from the middle of each sample, 0 = none
  --retrieval LENGTHS      none; comma-separated context lengths in tokens, or all = powers of two up to the model's
                           context and the data's length. Up to ten keys are planted at even depths of the data and asked
                           for at its end
  --output FILE            kv_accuracy.json; a .svg file is written beside it
  --device auto|cpu|cuda   auto
  --threads N              0 = one for each physical core
`;

/** Options of {@linkcode evalKv}. */
export interface EvalKvCommand {
  readonly model: string | undefined;
  readonly data: string;
  /** Null: all that the model can have. */
  readonly kvCacheDtypes: readonly KvCacheDtypeName[] | null;
  readonly reference: KvCacheDtypeName | null;
  readonly kvScales: readonly string[];
  readonly samples: number;
  readonly maxSeqLen: number;
  readonly greedyTokens: number;
  readonly retrieval: readonly number[] | "all";
  readonly output: string;
  readonly device: Device;
  readonly threads: number;
}

const DEVICES = ["auto", ...BACKENDS.toReversed()] as const;

/** @throws {OptionError} An unknown flag, or a value that does not fit. */
export function parseEvalKv(args: readonly string[]): EvalKvCommand {
  const names = ["data", "kv-cache-dtypes", "reference", "kv-scales", "samples", "max-seq-len", "greedy-tokens"];
  const flags = parseFlags("eval-kv", [...names, "retrieval", "output", "device", "threads"], args);
  const data = flags.text("data");
  if (!data) throw new OptionError("octavo eval-kv needs --data FILE|DIR");
  const list = (flag: string) => flags.text(flag)?.split(",").map((entry) => entry.trim()) ?? [];
  const dtypes = list("kv-cache-dtypes").map((name) => dtypeName("kv-cache-dtypes", name));
  const reference = flags.text("reference");
  return {
    model: flags.model,
    data,
    kvCacheDtypes: dtypes.length === 0 ? null : dtypes,
    reference: reference === null ? null : dtypeName("reference", reference),
    kvScales: list("kv-scales"),
    samples: flags.integer("samples", 8, 1),
    maxSeqLen: flags.integer("max-seq-len", 1024, 2),
    greedyTokens: flags.integer("greedy-tokens", 64, 0),
    retrieval: flags.text("retrieval") === "all" ? "all" : list("retrieval").map(contextLength),
    output: flags.text("output") || "kv_accuracy.json",
    device: flags.choice("device", DEVICES),
    threads: flags.integer("threads", 0, 0),
  };
}

function dtypeName(flag: string, name: string): KvCacheDtypeName {
  const known = KV_CACHE_DTYPE_NAMES.find((one) => one === name);
  if (known !== undefined) return known;
  throw new OptionError(`Cannot read --${flag}: expected ${KV_CACHE_DTYPE_NAMES.join(", ")}, received "${name}"`);
}

function contextLength(text: string): number {
  if (/^\d{1,9}$/.test(text) && Number(text) >= MIN_CONTEXT) return Number(text);
  throw new OptionError(
    `Cannot read --retrieval: expected all or lengths of ${MIN_CONTEXT} or more, received "${text}"`,
  );
}

/**
 * Compares and writes the files.
 *
 * @param log Told the tables.
 * @throws {OptionError} The data is too short, or there is nothing to compare.
 */
export async function evalKv(
  command: EvalKvCommand,
  { log, onProgress }: { log: (text: string) => void; onProgress: ProgressListener },
): Promise<void> {
  const model = await openModel(command.model ?? await fetchDemoModel({ onProgress }), { onProgress });
  const maxSeqLen = Math.min(command.maxSeqLen, model.config.maxModelLen);
  const all = readSamples(model, command.data, maxSeqLen);
  const samples = all.filter(({ length }) => length > 1).slice(0, command.samples);
  if (samples.length === 0) throw new OptionError(`No sample in ${command.data}: expected .txt or .jsonl files`);
  const haystack = all.flat().filter((token) => token !== model.tokenizer.bosTokenId);
  const lengths = retrievalLengths(command, model, haystack.length);
  const { library } = await openDevice(command.device);
  using _library = library;
  const { backend, name: device } = library.deviceInfo();
  const variants = chooseVariants(command, model, backend);
  const maxTokens = Math.max(...samples.map(({ length }) => length), ...lengths);
  using native = loadModel(
    library,
    model,
    { maxModelLen: maxTokens, layerKvDtypes: [], numThreads: command.threads, quantization: "none" },
    (doneBytes, totalBytes) => onProgress({ label: `Loading ${model.name}`, doneBytes, totalBytes }),
  );
  using comparison = new KvComparison(native, { variants, maxTokens, numThreads: command.threads });
  const count = (label: string, unit: string, doneBytes: number, totalBytes: number) =>
    onProgress({ label, unit, doneBytes, totalBytes });
  const accuracy = measureKvAccuracy(comparison, {
    samples,
    greedyTokens: command.greedyTokens,
    onSample: (done) => count(`Comparing ${variants.length - 1} KV caches`, "samples", done, samples.length),
  });
  const report: AccuracyReport = {
    model,
    device,
    samples,
    maxSeqLen,
    caches: variants.map((variant, i) => ({
      ...accuracy[i]!,
      bytesPerToken: native.kvPageBytes(variant.dtype, 16) / 16,
    })),
    retrieval: [],
  };
  // Retrieval may take much longer: what is there is there.
  writeReport(command.output, report);
  log(accuracyTable(report));
  if (lengths.length === 0) return;
  const retrieval = lengths.map((contextLength, i) => {
    const found = measureKvRetrieval(comparison, { tokenizer: model.tokenizer, haystack, contextLength });
    count("Retrieving", "context lengths", i + 1, lengths.length);
    return { contextLength, found };
  });
  writeReport(command.output, { ...report, retrieval });
  log(`\n${retrievalTable(retrieval)}`);
}

function writeReport(path: string, report: AccuracyReport): void {
  Deno.writeTextFileSync(path, JSON.stringify(reportJson(report), null, 2) + "\n");
  Deno.writeTextFileSync(`${path.replace(/\.json$/, "")}.svg`, reportChart(report));
}

function retrievalLengths({ retrieval }: EvalKvCommand, { config }: ModelFiles, numTokens: number): readonly number[] {
  const { maxModelLen } = config;
  const limit = Math.min(maxModelLen, numTokens);
  const powers = Array.from({ length: 31 }, (_, i) => 2 ** i).filter((n) => n >= MIN_CONTEXT && n <= limit);
  const lengths = retrieval === "all" ? powers : retrieval;
  if (retrieval === "all" && powers.length === 0) {
    throw new OptionError(`Cannot retrieve from ${limit} tokens of data or context: expected ${MIN_CONTEXT} or more`);
  }
  const longest = Math.max(0, ...lengths);
  if (longest > maxModelLen) {
    throw new OptionError(`Cannot retrieve from ${longest} tokens: the model's context is ${maxModelLen}`);
  }
  if (longest > numTokens) throw new OptionError(`Cannot retrieve from ${longest} tokens: the data has ${numTokens}`);
  return lengths;
}

/** The reference first, then the others, then those with scales of files. */
function chooseVariants(command: EvalKvCommand, model: ModelFiles, backend: string): KvVariant[] {
  const reference = kvVariant(model, command.reference ?? (backend === "cpu" ? "float32" : model.config.dtype));
  const names = command.kvCacheDtypes ?? possibleKvDtypes(model, backend);
  const others = [
    ...names.map((name) => kvVariant(model, name)),
    ...command.kvScales.flatMap((file) => fileVariants(model, file)),
  ].filter(({ name }, i, all) => name !== reference.name && all.findIndex((one) => one.name === name) === i);
  if (others.length === 0) throw new OptionError(`There is no cache to compare with ${reference.name}`);
  return [reference, ...others];
}
