/**
 * The tensors of a Hugging Face folder: one safetensors file, or several with an index.
 *
 * @module
 */

import { join } from "node:path";
import { ModelFileError } from "./errors.ts";
import { isRecord } from "./fields.ts";
import { readRecordOrNull } from "./json_file.ts";
import { readSafetensors, type SafetensorsTensor } from "./safetensors.ts";

export interface CheckpointTensor extends SafetensorsTensor {
  /** Index into {@linkcode Checkpoint.paths}. */
  readonly file: number;
}

export interface Checkpoint {
  readonly paths: readonly string[];
  readonly tensors: readonly CheckpointTensor[];
}

export const safetensorsFile = "model.safetensors";
export const safetensorsIndexFile = "model.safetensors.index.json";

/** No folder, no hidden file, no way out of the model's folder. */
const shardName = /^[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.safetensors$/;

/**
 * Reads the headers of a folder's safetensors files.
 *
 * @throws {ModelFileError} When there are none, or one is damaged, or they contradict the index.
 */
export function readCheckpoint(folder: string): Checkpoint {
  const indexPath = join(folder, safetensorsIndexFile);
  const index = readRecordOrNull(indexPath);
  const shards = index === null ? null : shardsOf(indexPath, index);
  const names = shards === null ? [safetensorsFile] : [...new Set(shards.values())].sort();
  const paths = names.map((name) => join(folder, name));
  const tensors: CheckpointTensor[] = [];
  const fileOf = new Map<string, number>();
  paths.forEach((path, file) => {
    for (const tensor of readShard(path)) {
      if (fileOf.has(tensor.name)) {
        throw new ModelFileError(path, `tensor ${tensor.name}`, `is also in ${names[fileOf.get(tensor.name)!]}`);
      }
      fileOf.set(tensor.name, file);
      tensors.push({ ...tensor, file });
    }
  });
  for (const [name, shard] of shards ?? []) {
    const file = fileOf.get(name);
    if (file === undefined || names[file] !== shard) {
      throw new ModelFileError(indexPath, `weight_map of ${name}`, "must name the file that holds it", shard);
    }
  }
  return { paths, tensors };
}

/**
 * File of each tensor, from an index.
 *
 * @throws {ModelFileError} When a name is not that of a file beside the index.
 */
export function shardsOf(path: string, index: Record<string, unknown>): Map<string, string> {
  const map = index["weight_map"];
  if (!isRecord(map)) throw new ModelFileError(path, "weight_map", "must be an object", map);
  const shards = new Map<string, string>();
  for (const [name, shard] of Object.entries(map)) {
    if (typeof shard !== "string" || !shardName.test(shard)) {
      throw new ModelFileError(
        path,
        `weight_map of ${name}`,
        "must be the name of a .safetensors file beside it",
        shard,
      );
    }
    shards.set(name, shard);
  }
  return shards;
}

function readShard(path: string): SafetensorsTensor[] {
  try {
    return readSafetensors(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new ModelFileError(
      path,
      "the file",
      `must be there: weights are read from ${safetensorsFile} or ${safetensorsIndexFile}`,
    );
  }
}
