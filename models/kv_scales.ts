/**
 * Scales of an FP8 KV cache as files hold them, checked and put in order of layers.
 *
 * real = stored x scale; a checkpoint's scale is the largest value expected divided by 448, E4M3's largest.
 *
 * @module
 */

import type { Checkpoint, CheckpointTensor } from "./hf_checkpoint.ts";
import { withFile } from "./byte_source.ts";
import { ModelFileError } from "./errors.ts";
import { isRecord } from "./fields.ts";
import { readRecord } from "./json_file.ts";
import { type KvScalePlace, kvScalePlace } from "./kv_scale_names.ts";
import { readSafetensors } from "./safetensors.ts";
import type { KvScaleTable, LayerKvScales } from "./types.ts";

/** One entry of a file, read. */
export interface KvScaleEntry {
  readonly name: string;
  readonly values: readonly number[];
}

/** What a model has: how many layers, KV heads of each, and dims of a head. */
export interface KvScaleShape {
  readonly numLayers: number;
  readonly numKvHeads: number;
  readonly headDim: number;
}

/** Below this a f32 is subnormal: no calibration gives such a scale, uninitialised memory does. */
const SMALLEST_NORMAL = 2 ** -126;
const LARGEST = 3.4028234663852886e38;
/** A scale is one number or one a head, a mean has as many as K; nothing larger is read. */
const MAX_VALUES = 4096;
const MAX_MEAN_VALUES = 2 ** 20;

/**
 * Puts entries in order of layers. Nothing here throws: what cannot be used is left out and said, once a layer.
 *
 * @param source What the layers' scales are said to come from.
 */
export function kvScaleTable(
  entries: readonly KvScaleEntry[],
  shape: KvScaleShape,
  source: LayerKvScales["source"],
): KvScaleTable {
  const { numLayers } = shape;
  const problems: string[] = [];
  const found = Array.from({ length: numLayers }, () => new Map<KvScalePlace["kind"], KvScaleEntry>());
  for (const entry of entries) {
    const place = kvScalePlace(entry.name);
    if (place === null) problems.push(`${entry.name} is not known as a KV scale's name`);
    else if (place.layer >= numLayers) {
      problems.push(`${entry.name} is of no layer: the model has layers 0 to ${numLayers - 1}`);
    } else if (place.kind !== "unused") {
      const problem = entryProblem(entry, place, shape);
      const first = found[place.layer]!.get(place.kind);
      if (problem !== null) problems.push(`layer ${place.layer}: ${entry.name} ${problem}`);
      else if (first === undefined) found[place.layer]!.set(place.kind, entry);
      else if (!isSame(first.values, entry.values)) {
        problems.push(`layer ${place.layer}: ${entry.name} differs from ${first.name}, which is used`);
      }
    }
  }
  const layers = found.map((scales) => layerScales(scales, source));
  const isAny = layers.some((layer) => layer !== null);
  layers.forEach((layer, index) => {
    if (layer === null && isAny) problems.push(`layer ${index}: has no usable scale, 1 is used`);
    else if (layer?.k === undefined || layer.v === undefined) {
      if (layer !== null) problems.push(`layer ${index}: has no usable ${layer.k ? "v" : "k"}_scale, 1 is used`);
    }
  });
  const whole = layers.map((layer) =>
    layer === null ? null : Object.freeze({ ...layer, k: layer.k ?? [1], v: layer.v ?? [1] })
  );
  const means = found.map((scales) => {
    const entry = scales.get("k_mean");
    return entry === undefined ? null : Float32Array.from(entry.values);
  });
  return { layers: whole, means, names: found.map((scales) => usedNames(scales)), problems };
}

/** A scale of its own goes before one for both. */
function usedNames(found: ReadonlyMap<KvScalePlace["kind"], KvScaleEntry>): string[] {
  const used = [...(["k", "v"] as const).map((kind) => found.get(kind) ?? found.get("kv")), found.get("k_mean")];
  return [...new Set(used.flatMap((entry) => entry === undefined ? [] : [entry.name]))];
}

/** Layers' scales, one or both; null = none. */
function layerScales(
  found: ReadonlyMap<KvScalePlace["kind"], KvScaleEntry>,
  source: LayerKvScales["source"],
): Partial<Pick<LayerKvScales, "k" | "v">> & Pick<LayerKvScales, "granularity" | "source"> | null {
  const both = found.get("kv")?.values;
  const k = found.get("k")?.values ?? both;
  const v = found.get("v")?.values ?? both;
  if (k === undefined && v === undefined) return null;
  const granularity = (k?.length ?? 1) > 1 || (v?.length ?? 1) > 1 ? "head" : "tensor";
  return { ...(k === undefined ? {} : { k }), ...(v === undefined ? {} : { v }), granularity, source };
}

function entryProblem(
  { values }: KvScaleEntry,
  { kind }: KvScalePlace,
  { numKvHeads, headDim }: KvScaleShape,
): string | null {
  if (kind === "k_mean") {
    if (values.length !== numKvHeads * headDim) {
      return `must have ${numKvHeads} x ${headDim} values, found ${values.length}`;
    }
    const odd = values.find((value) => !(Math.abs(value) <= LARGEST));
    return odd === undefined ? null : `must be finite, found ${odd}`;
  }
  if (kind.endsWith("zero_point")) return values.every((value) => value === 0) ? null : `must be 0, found ${values}`;
  if (values.length !== 1 && values.length !== numKvHeads) {
    return `must have 1 or ${numKvHeads} values, found ${values.length}`;
  }
  const bad = values.find((value) => !(value >= SMALLEST_NORMAL && value <= LARGEST));
  return bad === undefined ? null : `must be finite and above 0, found ${bad}`;
}

function isSame(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((value, i) => value === b[i]);
}

/**
 * The KV scales among a checkpoint's tensors.
 *
 * @throws {ModelFileError} One cannot be read at all: another dtype, or far too many values.
 */
export function checkpointKvScales({ tensors, paths }: Checkpoint): KvScaleEntry[] {
  return tensors.filter(({ name }) => (kvScalePlace(name)?.kind ?? "unused") !== "unused")
    .map((tensor) => ({ name: tensor.name, values: tensorValues(paths[tensor.file]!, tensor) }));
}

/**
 * Reads a file of KV scales: safetensors with a checkpoint's names, or JSON: `{"scales": {name: number or numbers}}`, the
 * same without "scales", or `{"kv_cache": {"scaling_factor": {"0": {layer: number}}}}` as vLLM once took it.
 *
 * @throws {ModelFileError} The file is damaged or holds something else.
 */
export function readKvScaleFile(path: string): KvScaleEntry[] {
  if (path.endsWith(".json")) return jsonEntries(path, readRecord(path));
  return readSafetensors(path).filter(({ name }) => kvScalePlace(name)?.kind !== "unused")
    .map((tensor) => ({ name: tensor.name, values: tensorValues(path, tensor) }));
}

function jsonEntries(path: string, record: Readonly<Record<string, unknown>>): KvScaleEntry[] {
  const legacy = record["kv_cache"];
  const factors = isRecord(legacy) ? legacy["scaling_factor"] : undefined;
  if (isRecord(factors)) {
    const ranks = Object.values(factors);
    const [only] = ranks;
    if (ranks.length !== 1 || !isRecord(only)) {
      throw new ModelFileError(path, "kv_cache.scaling_factor", "must have one rank", Object.keys(factors));
    }
    return Object.entries(only).map(([layer, value]) => jsonEntry(path, `layers.${layer}.self_attn.kv_scale`, value));
  }
  const scales = record["scales"] ?? record;
  if (!isRecord(scales)) throw new ModelFileError(path, "scales", "must be an object", scales);
  return Object.entries(scales).map(([name, value]) => jsonEntry(path, name, value));
}

function jsonEntry(path: string, name: string, value: unknown): KvScaleEntry {
  const values: unknown[] = Array.isArray(value) ? value : [value];
  // JSON has no NaN; null stands for it as JSON.stringify writes it.
  const numbers = values.map((one) => one === null ? NaN : one);
  if (!numbers.every((one) => typeof one === "number")) {
    throw new ModelFileError(path, name, "must be a number or a list of numbers", value);
  }
  return { name, values: numbers };
}

function tensorValues(
  path: string,
  { name, dtype, shape, offsetBytes, sizeBytes }: Omit<CheckpointTensor, "file">,
): number[] {
  const field = `tensor ${name}`;
  const read = readers[dtype];
  if (read === undefined) throw new ModelFileError(path, field, `must be one of ${Object.keys(readers)}`, dtype);
  const count = shape.reduce((product, size) => product * size, 1);
  const most = kvScalePlace(name)?.kind === "k_mean" ? MAX_MEAN_VALUES : MAX_VALUES;
  if (count > most) throw new ModelFileError(path, field, `must have at most ${most} values`, shape);
  const bytes = new Uint8Array(sizeBytes);
  withFile(path, (source) => source.read(offsetBytes, bytes));
  const view = new DataView(bytes.buffer);
  return Array.from({ length: count }, (_, i) => read(view, i));
}

const readers: Readonly<Record<string, (view: DataView, i: number) => number>> = {
  F64: (view, i) => view.getFloat64(8 * i, true),
  F32: (view, i) => view.getFloat32(4 * i, true),
  F16: (view, i) => float16(view.getUint16(2 * i, true)),
  BF16: (view, i) => bfloat16(view.getUint16(2 * i, true)),
  // Zero points, which are 0 or an error: whether any bit but the sign is set is all that counts.
  F8_E4M3: (view, i) => view.getUint8(i) & 0x7f,
  I8: (view, i) => view.getInt8(i),
};

function bfloat16(bits: number): number {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint32(0, bits * 65536);
  return view.getFloat32(0);
}

function float16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const mantissa = bits & 1023;
  if (exponent === 31) return mantissa === 0 ? sign * Infinity : NaN;
  return exponent === 0 ? sign * mantissa * 2 ** -24 : sign * (1024 + mantissa) * 2 ** (exponent - 25);
}
