/**
 * `octavo inspect`: what a model's files hold, what KV cache a server would choose, and what fits.
 *
 * @module
 */

import { parseFlags } from "./_flags.ts";
import { alignColumns } from "./_table.ts";
import { inspectModel, type InspectOptions, type ModelReport } from "./engine/inspect_model.ts";
import { fetchDemoModel } from "./models/demo.ts";
import { openModel } from "./models/open_model.ts";
import type { ProgressListener } from "./models/progress.ts";
import { OptionError, OPTIONS } from "./options.ts";

export const INSPECT_HELP = `Usage: octavo inspect [MODEL] [options]

Says what the model's files hold (nothing is loaded), which KV cache a server would choose and why, where the cache's
scales come from, and how many tokens each KV dtype holds. The same options as for serve:

  --kv-cache-dtype NAME, --kv-cache-dtype-skip-layers LAYERS, --kv-scales FILE
  --kv-cache-memory SIZE, --gpu-memory-utilization FRACTION, --page-size N, --max-model-len TOKENS

  --json                     print everything as JSON
`;

/** Options of {@linkcode inspect}. */
export interface InspectCommand extends Omit<InspectOptions, "model"> {
  readonly model: string | undefined;
  readonly json: boolean;
}

/** Of `serve`, too. */
const SHARED = [
  "kvCacheDtype",
  "kvCacheDtypeSkipLayers",
  "kvScales",
  "kvCacheMemory",
  "gpuMemoryUtilization",
  "pageSize",
  "maxModelLen",
] as const;

/** @throws {OptionError} An unknown flag, or a value that does not fit. */
export function parseInspect(args: readonly string[]): InspectCommand {
  const flags = parseFlags("inspect", SHARED.map((key) => OPTIONS[key].flag), args, ["json"]);
  const read = <K extends typeof SHARED[number]>(key: K): ReturnType<(typeof OPTIONS)[K]["parse"]> => {
    const option = OPTIONS[key];
    const text = flags.text(option.flag);
    type Value = ReturnType<(typeof OPTIONS)[K]["parse"]>;
    if (text === null) return option.default as Value;
    try {
      return option.parse(text) as Value;
    } catch (error) {
      throw new OptionError(`Cannot read --${option.flag}: ${(error as Error).message}, received "${text}"`);
    }
  };
  return {
    model: flags.model,
    json: flags.isSet("json"),
    kvCacheDtype: read("kvCacheDtype"),
    kvCacheDtypeSkipLayers: read("kvCacheDtypeSkipLayers"),
    kvScales: read("kvScales"),
    kvCacheMemory: read("kvCacheMemory"),
    gpuMemoryUtilization: read("gpuMemoryUtilization"),
    pageSize: read("pageSize"),
    maxModelLen: read("maxModelLen"),
  };
}

/**
 * Prints what there is to say of a model.
 *
 * @throws {ModelNotFoundError | ModelFileError | HubError | FetchError} The model cannot be had or read.
 */
export async function inspect(
  command: InspectCommand,
  { log, onProgress }: { log: (text: string) => void; onProgress: ProgressListener },
): Promise<void> {
  const model = await openModel(command.model ?? await fetchDemoModel({ onProgress }), { onProgress });
  const report = await inspectModel({ ...command, model });
  log(command.json ? JSON.stringify(report, null, 2) : text(report));
}

function text(report: ModelReport): string {
  const { config, kvCache, memory } = report;
  const lines = [
    ["model", `${report.name}, ${report.source}`],
    [
      "layers",
      `${config.numLayers} of ${config.architecture}, hidden size ${config.hiddenSize}, ${config.numQHeads} q heads ` +
      `over ${config.numKvHeads} kv heads of ${config.headDim}${windows(report)}`,
    ],
    [
      "context",
      `${number(config.maxModelLen)} tokens; vocabulary ${number(config.vocabSize)}; ` +
      `${report.hasChatTemplate ? "chat template" : "no chat template"}`,
    ],
    [
      "weights",
      `${number(report.numParameters)} parameters in ${report.numFiles} file${report.numFiles === 1 ? "" : "s"}: ` +
      report.weights.map(({ dtype, bytes, numTensors }) => `${dtype} ${mib(bytes)} in ${numTensors}`).join(", "),
    ],
    ["KV cache", `${kvCache.dtype}: ${kvCache.reason}${skipped(report)}`],
    ["KV scales", kvCache.scales.length === 0 ? "none in the files" : `of ${kvCache.scales.length} layers, below`],
    [
      "K's mean",
      kvCache.numKMeans === 0 ? "none in the files" : `of ${kvCache.numKMeans} layers, for int8, k8v4, int4`,
    ],
    ...kvCache.warning === null ? [] : [["warning", kvCache.warning]],
  ];
  const parts = [alignColumns(lines)];
  if (kvCache.scales.length > 0) parts.push(scaleTable(report));
  parts.push(dtypeTable(report));
  if (memory === null) parts.push(`How many tokens fit is not known without --kv-cache-memory: ${report.noMemory}`);
  return parts.join("\n\n");
}

function windows({ slidingWindows }: ModelReport): string {
  const some = slidingWindows.filter(({ tokens }) => tokens > 0);
  if (some.length === 0) return "";
  return `; a window of ${some.map(({ tokens, numLayers }) => `${tokens} tokens in ${numLayers} layers`).join(", ")}`;
}

function skipped({ kvCache, config }: ModelReport): string {
  return kvCache.skippedLayers.length === 0 ? "" : `; ${config.dtype} in layers ${kvCache.skippedLayers.join(", ")}`;
}

function scaleTable({ kvCache }: ModelReport): string {
  const values = (scales: readonly number[]) => scales.map((scale) => scale.toPrecision(4)).join(" ");
  return alignColumns([
    ["layer", "K scale", "V scale", "one a", "source", "tensors"],
    ...kvCache.scales.map(({ layer, scales, names }) => [
      String(layer),
      values(scales.k),
      values(scales.v),
      scales.granularity === "head" ? "head" : "layer",
      scales.source,
      names.join(", "),
    ]),
  ]);
}

function dtypeTable({ dtypes, memory, maxModelLen, config, kvCache }: ModelReport): string {
  return alignColumns([
    [
      "KV dtype",
      "bytes a token",
      `${number(maxModelLen)} tokens`,
      ...memory === null ? [] : [`tokens in ${mib(memory.bytes)}${memory.reckoning}`],
    ],
    ...dtypes.map(({ dtype, bytesPerToken, numTokens }) => {
      const name = dtype === kvCache.dtype ? `${dtype} *` : dtype;
      if (bytesPerToken === null) return [name, `needs a head dimension of whole 32s, not ${config.headDim}`];
      const fits = numTokens === null ? [] : [`${number(numTokens)}${numTokens < maxModelLen ? " (too few)" : ""}`];
      return [name, number(bytesPerToken), mib(bytesPerToken * maxModelLen), ...fits];
    }),
  ]);
}

function number(value: number): string {
  return value.toLocaleString("en");
}

function mib(bytes: number): string {
  return bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(1)} GiB` : `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}
