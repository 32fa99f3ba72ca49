/**
 * Writes KV scales as LLM Compressor does: a safetensors file by itself (also K's means), or a checkpoint with them.
 *
 * @module
 */

import { join } from "node:path";
import { ModelFileError } from "./errors.ts";
import { safetensorsFile, safetensorsIndexFile, shardsOf } from "./hf_checkpoint.ts";
import { readRecord, readRecordOrNull } from "./json_file.ts";
import { isRecord } from "./fields.ts";
import { readSafetensors } from "./safetensors.ts";
import type { LayerKvScales, ModelFiles } from "./types.ts";

/** Scales by compressed-tensors' names. */
export function namedKvScales(layers: readonly LayerKvScales[]): Record<string, readonly number[]> {
  return Object.fromEntries(
    layers.flatMap(({ k, v }, layer) => [
      [`model.layers.${layer}.self_attn.k_scale`, k],
      [`model.layers.${layer}.self_attn.v_scale`, v],
    ]),
  );
}

/** Means of K, `[numKvHeads][headDim]` each. */
export interface KMeans {
  readonly layers: readonly Float32Array[];
  readonly headDim: number;
}

/**
 * Writes a safetensors file: BF16, scales `[1]` or `[num_kv_heads, 1, 1]`, means `[num_kv_heads, 1, head_dim]`. All must be
 * bfloat16 values.
 *
 * @param means Null: none. Others' loaders do not know them.
 */
export function writeKvScales(path: string, layers: readonly LayerKvScales[], means: KMeans | null = null): void {
  let offset = 0;
  const scales = Object.entries(namedKvScales(layers)).map(([name, values]) => ({
    name,
    values,
    shape: values.length === 1 ? [1] : [values.length, 1, 1],
  }));
  const entries = [
    ...scales,
    ...(means?.layers ?? []).map((values, layer) => ({
      name: `model.layers.${layer}.self_attn.k_mean`,
      values: [...values],
      shape: [values.length / means!.headDim, 1, means!.headDim],
    })),
  ];
  const header = entries.map(({ name, values: { length }, shape }) => {
    return [name, { dtype: "BF16", shape, data_offsets: [offset, offset += 2 * length] }];
  });
  const text = new TextEncoder().encode(JSON.stringify(Object.fromEntries(header)));
  // Tensors begin at a multiple of 8.
  const headerBytes = Math.ceil(text.length / 8) * 8;
  const bytes = new Uint8Array(8 + headerBytes + offset).fill(0x20, 8, 8 + headerBytes);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(headerBytes), true);
  bytes.set(text, 8);
  let at = 8 + headerBytes;
  for (const value of entries.flatMap(({ values }) => values)) {
    const single = new DataView(new ArrayBuffer(4));
    single.setFloat32(0, value);
    view.setUint16(at, single.getUint16(0), true);
    at += 2;
  }
  Deno.writeFileSync(path, bytes);
}

const scalesShard = "model-kv-scales.safetensors";
/** Transformers prefers a file of this name to an index, so the weights get another. */
const weightsShard = "model-weights.safetensors";

/**
 * Copies a Hugging Face folder and adds scales: a checkpoint that asks for an FP8 cache, as compressed-tensors has it.
 *
 * @throws {ModelFileError} The model is no such folder, has KV scales already, or is quantised by another method.
 */
export function saveWithKvScales(model: ModelFiles, folder: string, layers: readonly LayerKvScales[]): void {
  const { source } = model;
  if (!Deno.statSync(source).isDirectory) {
    throw new ModelFileError(source, "the model", "must be a folder in Hugging Face's layout to be saved with scales");
  }
  if (model.kvCache.scales.layers.some((layer) => layer !== null)) {
    throw new ModelFileError(source, "the model", "has KV scales already");
  }
  const config = withKvCacheScheme(join(source, "config.json"), layers);
  Deno.mkdirSync(folder, { recursive: true });
  for (const { name, isDirectory } of Deno.readDirSync(source)) {
    if (isDirectory || name === safetensorsIndexFile) continue;
    Deno.copyFileSync(join(source, name), join(folder, name === safetensorsFile ? weightsShard : name));
  }
  writeKvScales(join(folder, scalesShard), layers);
  const weight_map = Object.fromEntries(
    [...weightFiles(source), ...Object.keys(namedKvScales(layers)).map((name) => [name, scalesShard])],
  );
  Deno.writeTextFileSync(join(folder, safetensorsIndexFile), JSON.stringify({ metadata: {}, weight_map }, null, 2));
  Deno.writeTextFileSync(join(folder, "config.json"), JSON.stringify(config, null, 2));
}

/** Where each weight lies in the copy. */
function weightFiles(source: string): [string, string][] {
  const indexPath = join(source, safetensorsIndexFile);
  const index = readRecordOrNull(indexPath);
  if (index !== null) return [...shardsOf(indexPath, index)];
  return readSafetensors(join(source, safetensorsFile)).map(({ name }) => [name, weightsShard]);
}

function withKvCacheScheme(path: string, layers: readonly LayerKvScales[]): Record<string, unknown> {
  const config = readRecord(path);
  const given = config["quantization_config"] ?? { config_groups: {}, format: "dense", ignore: [] };
  const method = isRecord(given) ? given["quant_method"] ?? "compressed-tensors" : given;
  if (!isRecord(given) || method !== "compressed-tensors") {
    throw new ModelFileError(path, "quantization_config", "must be compressed-tensors' to take KV scales", method);
  }
  const strategy = layers.some(({ granularity }) => granularity === "head") ? "attn_head" : "tensor";
  const kv_cache_scheme = { num_bits: 8, type: "float", strategy, dynamic: false, symmetric: true };
  return {
    ...config,
    quantization_config: {
      quantization_status: "compressed",
      ...given,
      quant_method: "compressed-tensors",
      kv_cache_scheme,
    },
  };
}
