/**
 * A model from a folder in Hugging Face's layout.
 *
 * @module
 */

import { basename, join } from "node:path";
import { chatTemplateOf } from "./chat_template.ts";
import { endTokenIds } from "./end_tokens.ts";
import { ModelFileError } from "./errors.ts";
import { Fields, isRecord } from "./fields.ts";
import { generationDefaults } from "./generation_config.ts";
import { type Checkpoint, type CheckpointTensor, readCheckpoint } from "./hf_checkpoint.ts";
import { type HuggingFaceConfig, huggingFaceConfig } from "./hf_config.ts";
import { huggingFacePlace, scaledWeight } from "./hf_tensor_names.ts";
import { readRecord, readRecordOrNull, readTextOrNull } from "./json_file.ts";
import { type FileTensor, madeUpTensors, mapTensors } from "./model_tensors.ts";
import { checkpointKvScales, kvScaleTable } from "./kv_scales.ts";
import { checkWeightQuantization, fp8KvCacheAskedBy } from "./quantization_config.ts";
import { createTokenizer } from "./tokenizer.ts";
import type { ChatTemplate, ModelConfig, ModelFiles, ScaleSource, TensorSource, Tokenizer } from "./types.ts";

/** How {@linkcode openHuggingFaceModel} names a model and where its weights come from. */
export interface HuggingFaceOptions {
  /** To serve it by; the folder's own name by default. */
  readonly name?: string;
  /** Make the weights up, from a seed, instead of reading safetensors files, which need not be there. */
  readonly madeUpSeed?: number;
}

/**
 * Reads a folder's settings, tokenizer and tensor headers.
 *
 * @param folder Absolute.
 * @throws {ModelFileError} When a file is missing, damaged, or holds a model that is not known.
 */
export function openHuggingFaceModel(folder: string, options: HuggingFaceOptions = {}): ModelFiles {
  const { name = basename(folder), madeUpSeed } = options;
  const configPath = join(folder, "config.json");
  const record = readRecord(configPath);
  const isMadeUp = madeUpSeed !== undefined;
  if (!isMadeUp) checkWeightQuantization(configPath, record);
  const checkpoint: Checkpoint = isMadeUp ? { paths: [], tensors: [] } : readCheckpoint(folder);
  const settings = huggingFaceConfig(configPath, record, storedDtype(checkpoint));
  const { vocabSize } = settings.config;
  const tokens = readSpecialTokens(folder);
  const tokenizerPath = join(folder, "tokenizer.json");
  const json = readRecord(tokenizerPath);
  const tokenizer = createTokenizer({ file: tokenizerPath, json, bosToken: tokens.bosToken, vocabSize });
  const chatTemplate = readChatTemplate(folder, tokens);
  const generationPath = join(folder, "generation_config.json");
  const generation = Fields.ofRecord(generationPath, readRecordOrNull(generationPath) ?? {});
  const named = [
    ...eosIds(Fields.ofRecord(configPath, record), vocabSize),
    ...eosIds(generation, vocabSize),
    ...tokenIds(tokenizer, tokens.eosToken),
  ];
  return {
    name,
    source: folder,
    paths: checkpoint.paths,
    config: settings.config,
    tensors: isMadeUp
      ? madeUpTensors({ ...settings, needsLmHead: !settings.isTied }, madeUpSeed)
      : checkpointTensors(checkpoint, settings),
    kvCache: {
      fp8AskedBy: isMadeUp ? null : fp8KvCacheAskedBy(folder, record),
      scales: kvScaleTable(checkpointKvScales(checkpoint), settings.config, "checkpoint"),
    },
    tokenizer,
    chatTemplate,
    generationDefaults: generationDefaults(generation),
    eosTokenIds: endTokenIds(tokenizer, named, chatTemplate?.source ?? null),
  };
}

/** Where config.json names none: what most of the tensors are stored in. */
function storedDtype({ tensors }: Checkpoint): ModelConfig["dtype"] {
  const count = (dtype: string) => tensors.filter((tensor) => tensor.dtype === dtype).length;
  const [bfloat16, float16, float32] = [count("BF16"), count("F16"), count("F32")];
  if (float32 > Math.max(bfloat16, float16)) return "float32";
  return float16 > bfloat16 ? "float16" : "bfloat16";
}

function checkpointTensors(checkpoint: Checkpoint, settings: HuggingFaceConfig): TensorSource[] {
  const { config, architecture, isTied } = settings;
  const { paths } = checkpoint;
  const placeOf = (name: string) => {
    const place = huggingFacePlace(name, architecture);
    // A tied model's lm_head may be stored too; it is the embedding again.
    return isTied && place?.role === "lm_head" ? null : place;
  };
  const scales = new Map<string, CheckpointTensor>();
  const weights = checkpoint.tensors.filter((tensor) => {
    const weight = scaledWeight(tensor.name);
    if (weight !== null) scales.set(weight, tensor);
    return weight === null && placeOf(tensor.name) !== null;
  });
  const tensors = weights.map((tensor) => fileTensor(tensor, scales, paths[tensor.file]!));
  return mapTensors(tensors, { config, architecture, paths, placeOf, isInterleaved: false, needsLmHead: !isTied });
}

/** @param scales By the weight's name. */
function fileTensor(
  { dtype, ...tensor }: CheckpointTensor,
  scales: ReadonlyMap<string, CheckpointTensor>,
  path: string,
): FileTensor {
  const scale = scales.get(tensor.name);
  const field = `tensor ${tensor.name}`;
  if (dtype === "F8_E4M3") {
    if (scale === undefined) throw new ModelFileError(path, field, `must have its scale, ${tensor.name}_scale`);
    return { ...tensor, dtype, scales: scaleSource(scale, path) };
  }
  if (!isFloatDtype(dtype)) {
    throw new ModelFileError(path, `${field}: dtype`, "must be F32, F16, BF16 or F8_E4M3", dtype);
  }
  if (scale !== undefined) throw new ModelFileError(path, `${field}: dtype`, "has scales and must be F8_E4M3", dtype);
  return { ...tensor, dtype };
}

/** One scale, or one a row: shapes [], [1], [rows] and [rows, 1]. */
function scaleSource({ name, dtype, shape, file, offsetBytes }: CheckpointTensor, path: string): ScaleSource {
  if (!isFloatDtype(dtype)) {
    throw new ModelFileError(path, `tensor ${name}: dtype`, "must be F32, F16 or BF16", dtype);
  }
  const [count = 1, cols = 1, ...more] = shape;
  if (cols !== 1 || more.length > 0) {
    throw new ModelFileError(path, `tensor ${name}`, "must have one value, or one a row", shape);
  }
  return { file, dtype, offsetBytes, count };
}

function isFloatDtype(dtype: string): dtype is "F32" | "F16" | "BF16" {
  return dtype === "F32" || dtype === "F16" || dtype === "BF16";
}

interface SpecialTokens {
  readonly path: string;
  readonly config: Readonly<Record<string, unknown>>;
  readonly bosToken: string | null;
  readonly eosToken: string | null;
}

function readSpecialTokens(folder: string): SpecialTokens {
  const path = join(folder, "tokenizer_config.json");
  const config = readRecordOrNull(path) ?? {};
  const textOf = (key: string): string | null => {
    const value = config[key] ?? null;
    const text = isRecord(value) ? value["content"] : value;
    if (text === null || typeof text === "string") return text;
    throw new ModelFileError(path, key, "must be a token's text", value);
  };
  return { path, config, bosToken: textOf("bos_token"), eosToken: textOf("eos_token") };
}

/** From chat_template.jinja, chat_template.json or tokenizer_config.json, in this order. */
function readChatTemplate(folder: string, tokens: SpecialTokens): ChatTemplate | null {
  const { bosToken, eosToken } = tokens;
  const path = join(folder, "chat_template.jinja");
  const source = readTextOrNull(path);
  if (source !== null) return chatTemplateOf({ file: path, source, bosToken, eosToken });
  const jsonPath = join(folder, "chat_template.json");
  const json = readRecordOrNull(jsonPath);
  const [file, value] = json === null
    ? [tokens.path, tokens.config["chat_template"] ?? null]
    : [jsonPath, json["chat_template"] ?? null];
  if (value === null) return null;
  if (typeof value === "string") return chatTemplateOf({ file, source: value, bosToken, eosToken });
  const named = namedTemplates(file, value);
  const fallback = named.get("default");
  if (fallback === undefined) {
    throw new ModelFileError(file, "chat_template", 'must have one named "default"', [...named.keys()]);
  }
  const toolSource = named.get("tool_use");
  const tools = toolSource === undefined ? {} : { toolSource };
  return chatTemplateOf({ file, source: fallback, bosToken, eosToken, ...tools });
}

function namedTemplates(file: string, value: unknown): Map<string, string> {
  const named = new Map<string, string>();
  for (const entry of Array.isArray(value) ? value : [value]) {
    const { name, template } = isRecord(entry) ? entry : {};
    if (typeof name !== "string" || typeof template !== "string") {
      throw new ModelFileError(file, "chat_template", "must be a text or a list of named templates", entry);
    }
    named.set(name, template);
  }
  return named;
}

/** `eos_token_id`: a number, a list of numbers, or nothing. Ids beyond the vocabulary can never be sampled. */
function eosIds(fields: Fields, vocabSize: number): number[] {
  const value = fields.get("eos_token_id") ?? [];
  const ids: unknown[] = Array.isArray(value) ? value : [value];
  return ids.map((id) =>
    typeof id === "number" && Number.isInteger(id) && id >= 0 && id < vocabSize
      ? id
      : fields.fail("eos_token_id", `must be ids from 0 to ${vocabSize - 1}`, value)
  );
}

function tokenIds(tokenizer: Tokenizer, token: string | null): number[] {
  if (token === null) return [];
  const ids = tokenizer.encode(token, { addSpecialTokens: false });
  return ids.length === 1 ? ids : [];
}
