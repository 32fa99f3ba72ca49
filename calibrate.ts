/**
 * `octavo calibrate`: scales for an FP8 KV cache from a model's own keys and values on the user's data.
 *
 * @module
 */

import { parseFlags } from "./_flags.ts";
import { readSamples } from "./_samples.ts";
import {
  calibratedMeans,
  calibratedScales,
  CALIBRATION_GRANULARITIES,
  CALIBRATION_METHODS,
  collectKvHistograms,
  type ScaleMethod,
} from "./engine/calibrate.ts";
import type { KvHistograms } from "./ffi/kv_stats.ts";
import { openDevice } from "./ffi/library.ts";
import { BACKENDS, type Device } from "./ffi/library_search.ts";
import { fetchDemoModel } from "./models/demo.ts";
import { namedKvScales, saveWithKvScales, writeKvScales } from "./models/kv_scale_writer.ts";
import { openModel } from "./models/open_model.ts";
import type { ProgressListener } from "./models/progress.ts";
import type { LayerKvScales, ModelFiles } from "./models/types.ts";
import { OptionError } from "./options.ts";

export const CALIBRATE_HELP = `Usage: octavo calibrate [MODEL] --data FILE|DIR [options]

Runs the model on the data and writes a file for --kv-scales: scales for an FP8 cache, and K's means for int8, k8v4 and
int4. A .txt file is one document, cut into sequences; a line of a .jsonl file is one sample, {"text"}, {"messages"} or
{"token_ids"}; of a folder all such files are read, in the order of their names.

  --output FILE              kv_scales.safetensors; a .json file is written beside it
  --samples N                512; at most so many sequences
  --max-seq-len N            2048; tokens of a sequence
  --granularity tensor|head  tensor
  --method METHOD            absmax; percentile (99.99 %) and mse saturate the largest values
  --save-model DIR           also a copy of the model's folder with the scales, as LLM Compressor writes them
  --device auto|cpu|cuda     auto
  --threads N                0 = one for each physical core

An interrupted run goes on where it was: FILE.partial holds what has been counted.
`;

/** Options of {@linkcode calibrate}. */
export interface CalibrateCommand extends ScaleMethod {
  readonly model: string | undefined;
  readonly data: string;
  readonly output: string;
  readonly samples: number;
  readonly maxSeqLen: number;
  readonly saveModel: string | null;
  readonly device: Device;
  readonly threads: number;
}

const DEVICES = ["auto", ...BACKENDS.toReversed()] as const;

/** @throws {OptionError} An unknown flag, or a value that does not fit. */
export function parseCalibrate(args: readonly string[]): CalibrateCommand {
  const flags = ["data", "output", "samples", "max-seq-len", "granularity", "method", "save-model"];
  const { text, integer, choice, model } = parseFlags("calibrate", [...flags, "device", "threads"], args);
  const data = text("data");
  if (!data) throw new OptionError("octavo calibrate needs --data FILE|DIR");
  return {
    model,
    data,
    output: text("output") || "kv_scales.safetensors",
    samples: integer("samples", 512, 1),
    maxSeqLen: integer("max-seq-len", 2048, 2),
    granularity: choice("granularity", CALIBRATION_GRANULARITIES),
    method: choice("method", CALIBRATION_METHODS),
    saveModel: text("save-model") || null,
    device: choice("device", DEVICES),
    threads: integer("threads", 0, 0),
  };
}

/** Samples between two writes of the partial file. */
const SAMPLES_A_SAVE = 16;

/**
 * Calibrates and writes the files.
 *
 * @param log Told the table of scales.
 * @throws {OptionError} The data holds no sample.
 */
export async function calibrate(
  command: CalibrateCommand,
  { log, onProgress }: { log: (text: string) => void; onProgress: ProgressListener },
): Promise<void> {
  const model = await openModel(command.model ?? await fetchDemoModel({ onProgress }), { onProgress });
  const maxSeqLen = Math.min(command.maxSeqLen, model.config.maxModelLen);
  const samples = readSamples(model, command.data, maxSeqLen).slice(0, command.samples);
  if (samples.length === 0) throw new OptionError(`No sample in ${command.data}: expected .txt or .jsonl files`);
  const { library } = await openDevice(command.device);
  using _library = library;
  const { backend } = library.deviceInfo();
  const partial = new PartialFile(`${command.output}.partial`, await fingerprint(model, samples, backend));
  const stats = collectKvHistograms({
    library,
    model,
    samples,
    before: partial.read(),
    numThreads: command.threads,
    onSample: (numSamples, stats) => {
      if (numSamples % SAMPLES_A_SAVE === 0) partial.write(numSamples, stats());
      onProgress({ label: "Calibrating", doneBytes: numSamples, totalBytes: samples.length, unit: "samples" });
    },
  });
  const layers = calibratedScales(stats, model.config, command);
  const means = calibratedMeans(stats, model);
  writeKvScales(command.output, layers, means === null ? null : { layers: means, headDim: model.config.headDim });
  const report = {
    model: model.name,
    granularity: command.granularity,
    method: command.method,
    samples: samples.length,
    tokens: samples.reduce((total, { length }) => total + length, 0),
    fingerprint: partial.fingerprint,
    k_mean: means !== null,
    scales: namedKvScales(layers),
  };
  Deno.writeTextFileSync(
    `${command.output.replace(/\.safetensors$/, "")}.json`,
    JSON.stringify(report, null, 2) + "\n",
  );
  if (command.saveModel !== null) saveWithKvScales(model, command.saveModel, layers);
  partial.remove();
  log(scaleTable(layers, stats, model.config.numKvHeads));
}

/** SHA-256 of the model's place, the samples and the device: what a partial file must have been made from. */
async function fingerprint(
  model: ModelFiles,
  samples: readonly (readonly number[])[],
  backend: string,
): Promise<string> {
  const sizes = model.paths.map((path) => Deno.statSync(path).size);
  const bytes = new TextEncoder().encode(JSON.stringify([model.source, sizes, samples, backend]));
  const digest = await crypto.subtle.digest("SHA-256", bytes);
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** What has been counted so far, for a run that is interrupted. */
class PartialFile {
  constructor(readonly path: string, readonly fingerprint: string) {}

  /** Null where there is none, or one of another run. */
  read(): { numSamples: number; stats: KvHistograms } | null {
    let content;
    try {
      content = JSON.parse(Deno.readTextFileSync(this.path));
    } catch (error) {
      if (error instanceof Deno.errors.NotFound || error instanceof SyntaxError) return null;
      throw error;
    }
    if (content.fingerprint !== this.fingerprint) return null;
    const { numSamples, absmax, histogram, kSum } = content;
    const stats = {
      absmax: Float32Array.from(absmax),
      histogram: Float64Array.from(histogram),
      kSum: Float64Array.from(kSum),
    };
    return { numSamples, stats };
  }

  write(numSamples: number, { absmax, histogram, kSum }: KvHistograms): void {
    const content = {
      fingerprint: this.fingerprint,
      numSamples,
      absmax: [...absmax],
      histogram: [...histogram],
      kSum: [...kSum],
    };
    Deno.writeTextFileSync(`${this.path}.new`, JSON.stringify(content));
    Deno.renameSync(`${this.path}.new`, this.path);
  }

  remove(): void {
    try {
      Deno.removeSync(this.path);
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
}

/** A line a layer: largest |K| and |V|, and the scales. */
function scaleTable(layers: readonly LayerKvScales[], { absmax }: KvHistograms, numKvHeads: number): string {
  const largest = (row: number) =>
    Math.max(...absmax.subarray(row * numKvHeads, (row + 1) * numKvHeads)).toPrecision(4);
  const text = (scales: readonly number[]) => scales.map((scale) => scale.toPrecision(4)).join(" ");
  const lines = layers.map(({ k, v }, layer) =>
    `${layer}\t${largest(2 * layer)}\t${largest(2 * layer + 1)}\t${text(k)}\t${text(v)}`
  );
  return ["layer\tmax |K|\tmax |V|\tK scale\tV scale", ...lines].join("\n");
}
