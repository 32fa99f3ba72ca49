/**
 * Opens a model by whatever names it: a file, a folder, or a repository of the Hugging Face hub.
 *
 * @module
 */

import { join, resolve } from "node:path";
import { openGgufModel } from "./gguf_model.ts";
import { safetensorsFile, safetensorsIndexFile } from "./hf_checkpoint.ts";
import { openHuggingFaceModel } from "./hf_model.ts";
import { fetchFromHub, type HubOptions, type HubSource, parseHubSource } from "./hub.ts";
import { HubError } from "./hub_error.ts";
import type { ModelFiles } from "./types.ts";

/** A source names no model that could be found. */
export class ModelNotFoundError extends Deno.errors.NotFound {
  override readonly name = "ModelNotFoundError";
}

/** Where weights come from: the model's files, or made up at random ("dummy"), which shows speed and memory only. */
export const LOAD_FORMATS = ["auto", "dummy"] as const;

/** How {@linkcode openModel} finds a model. */
export interface OpenModelOptions extends HubOptions {
  /** Default "auto". */
  readonly loadFormat?: typeof LOAD_FORMATS[number];
}

/** The same weights in every run. */
const MADE_UP_SEED = 0;

/**
 * Reads a model's headers, settings and tokenizer; loads no weights.
 *
 * @param source Path of a .gguf file; or of a folder with config.json or one .gguf file; or `org/name[:quantization][@revision]`
 * of the Hugging Face hub, which is asked when there is no such path.
 * @throws {ModelNotFoundError} When nothing is found; its message says what was tried.
 * @throws {ModelFileError} When a file is damaged or holds a model that is not known.
 * @throws {HubError} When the hub does not give the model.
 */
export async function openModel(source: string, options: OpenModelOptions = {}): Promise<ModelFiles> {
  const path = resolve(source);
  const info = await statOrNull(path);
  if (options.loadFormat === "dummy") return openMadeUp(source, path, info?.isDirectory ?? false);
  if (info?.isFile) return openGgufModel(path);
  if (info?.isDirectory) return openFolder(path);
  const hubSource = source.endsWith(".gguf") ? null : parseHubSource(source);
  if (hubSource === null) {
    const tried = `${path} does not exist, and ${source} is no org/name of the Hugging Face hub`;
    throw new ModelNotFoundError(`Cannot find model ${source}: ${tried}`);
  }
  return openFetched(await fetchOrSayWhatWasTried(hubSource, path, options), hubSource.repo);
}

async function fetchOrSayWhatWasTried(source: HubSource, path: string, options: HubOptions): Promise<string> {
  try {
    return await fetchFromHub(source, options);
  } catch (error) {
    if (!(error instanceof HubError)) throw error;
    throw new HubError(`${error.message}; nor is there a file or folder ${path}`, { cause: error.cause });
  }
}

function openFetched(path: string, repo: string): ModelFiles {
  return path.endsWith(".gguf") ? openGgufModel(path) : openHuggingFaceModel(path, { name: repo });
}

function openMadeUp(source: string, path: string, isFolder: boolean): ModelFiles {
  if (isFolder) return openHuggingFaceModel(path, { madeUpSeed: MADE_UP_SEED });
  const needed = "load format dummy needs a folder with config.json and tokenizer.json";
  throw new ModelNotFoundError(`Cannot make up model ${source}: ${needed}, and ${path} is none`);
}

function openFolder(folder: string): ModelFiles {
  const names = Array.from(Deno.readDirSync(folder), (entry) => entry.name);
  const ggufNames = names.filter((name) => name.endsWith(".gguf")).sort();
  const [only] = ggufNames;
  const hasWeights = names.includes(safetensorsFile) || names.includes(safetensorsIndexFile);
  if (only !== undefined && ggufNames.length === 1 && !hasWeights) return openGgufModel(join(folder, only));
  if (names.includes("config.json")) return openHuggingFaceModel(folder);
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
