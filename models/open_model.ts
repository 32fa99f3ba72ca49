/**
 * Opens a model by whatever names it: a file, a folder, or a repository of the Hugging Face hub.
 *
 * @module
 */

import { join, resolve } from "node:path";
import { openGgufModel } from "./gguf_model.ts";
import { openHuggingFaceModel } from "./hf_model.ts";
import type { ModelFiles } from "./types.ts";

/** A source names no model that could be found. */
export class ModelNotFoundError extends Deno.errors.NotFound {
  override readonly name = "ModelNotFoundError";
}

/**
 * Reads a model's headers, settings and tokenizer; loads no weights.
 *
 * @param source Path of a .gguf file, or of a folder with config.json or one .gguf file.
 * @throws {ModelNotFoundError} When nothing is found; its message says what was tried.
 * @throws {ModelFileError} When a file is damaged or holds a model that is not known.
 */
export async function openModel(source: string): Promise<ModelFiles> {
  const path = resolve(source);
  const info = await statOrNull(path);
  if (info?.isFile) return openGgufModel(path);
  if (info?.isDirectory) return openFolder(path);
  throw new ModelNotFoundError(`Cannot find model ${source}: ${path} is no file`);
}

function openFolder(folder: string): ModelFiles {
  const names = Array.from(Deno.readDirSync(folder), (entry) => entry.name);
  if (names.includes("config.json")) return openHuggingFaceModel(folder);
  const ggufNames = names.filter((name) => name.endsWith(".gguf")).sort();
  const [only] = ggufNames;
  if (only !== undefined && ggufNames.length === 1) return openGgufModel(join(folder, only));
  const found = only === undefined
    ? "neither"
    : `no config.json and ${ggufNames.length} .gguf files (${ggufNames.join(", ")})`;
  throw new ModelNotFoundError(
    `Cannot find a model in ${folder}: expected config.json or one .gguf file, found ${found}`,
  );
}

async function statOrNull(path: string): Promise<Deno.FileInfo | null> {
  try {
    return await Deno.stat(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) return null;
    throw error;
  }
}
