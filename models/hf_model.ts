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
import { type Checkpoint, readCheckpoint } from "./hf_checkpoint.ts";
import { type HuggingFaceConfig, huggingFaceConfig } from "./hf_config.ts";
import { huggingFacePlace } from "./hf_tensor_names.ts";
import { readRecord, readRecordOrNull, readTextOrNull } from "./json_file.ts";
import { type FileTensor, mapTensors } from "./model_tensors.ts";
import { refuseQuantizedWeights } from "./quantization_config.ts";
import { createTokenizer } from "./tokenizer.ts";
import type { ChatTemplate, ModelConfig, ModelFiles, TensorSource, Tokenizer } from "./types.ts";

/**
 * Reads a folder's settings, tokenizer and tensor headers.
 *
 * @param folder Absolute.
 * @param name To serve it by; the folder's own name by default.
 * @throws {ModelFileError} When a file is missing, damaged, or holds a model that is not known.
 */
export function openHuggingFaceModel(folder: string, name: string = basename(folder)): ModelFiles {
  const configPath = join(folder, "config.json");
  const record = readRecord(configPath);
  refuseQuantizedWeights(configPath, record);
  const checkpoint = readCheckpoint(folder);
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
    tensors: checkpointTensors(checkpoint, settings),
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
  const tensors: FileTensor[] = [];
  for (const { dtype, ...tensor } of checkpoint.tensors) {
    if (placeOf(tensor.name) === null) continue;
    if (dtype !== "F32" && dtype !== "F16" && dtype !== "BF16") {
      const path = paths[tensor.file]!;
      throw new ModelFileError(path, `tensor ${tensor.name}: dtype`, "must be F32, F16 or BF16", dtype);
    }
    tensors.push({ ...tensor, dtype });
  }
  return mapTensors(tensors, { config, architecture, paths, placeOf, isInterleaved: false, needsLmHead: !isTied });
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
