/**
 * A model from one GGUF file.
 *
 * @module
 */

import { architectures } from "./architectures.ts";
import { chatTemplateOf } from "./chat_template.ts";
import { endTokenIds } from "./end_tokens.ts";
import { Fields } from "./fields.ts";
import { type GgufHeader, readGguf } from "./gguf.ts";
import { ggufConfig } from "./gguf_config.ts";
import { ggufTokenizerJson } from "./gguf_tokenizer.ts";
import { kvScaleTable } from "./kv_scales.ts";
import { mapTensors, type TensorPlace } from "./model_tensors.ts";
import { createTokenizer } from "./tokenizer.ts";
import type { ModelConfig, ModelFiles, TensorRole, TensorSource, Tokenizer } from "./types.ts";

const rolesByName: Readonly<Record<string, TensorRole>> = {
  "token_embd.weight": "token_embedding",
  "output_norm.weight": "output_norm",
  "output.weight": "lm_head",
  "rope_freqs.weight": "rope_factors",
};

const layerRolesByName: Readonly<Record<string, TensorRole>> = {
  "attn_norm.weight": "attn_norm",
  "attn_q.weight": "q_proj",
  "attn_k.weight": "k_proj",
  "attn_v.weight": "v_proj",
  "attn_output.weight": "o_proj",
  "attn_q.bias": "q_bias",
  "attn_k.bias": "k_bias",
  "attn_v.bias": "v_bias",
  "attn_output.bias": "o_bias",
  "attn_q_norm.weight": "q_norm",
  "attn_k_norm.weight": "k_norm",
  "post_attention_norm.weight": "attn_post_norm",
  "ffn_norm.weight": "ffn_norm",
  "ffn_gate.weight": "gate_proj",
  "ffn_up.weight": "up_proj",
  "ffn_down.weight": "down_proj",
  "post_ffw_norm.weight": "ffn_post_norm",
};

/**
 * Reads a GGUF file's header and builds all that the engine needs from it.
 *
 * @param path Absolute.
 * @throws {ModelFileError} When the file is damaged or holds a model that is not known.
 */
export function openGgufModel(path: string): ModelFiles {
  const header = readGguf(path);
  const config = ggufConfig(header);
  const { json, bosToken } = ggufTokenizerJson(header);
  const tokenizer = createTokenizer({ file: path, json, bosToken, vocabSize: config.vocabSize });
  const fields = Fields.ofGguf(header);
  const eosId = fields.tokenIdOr("tokenizer.ggml.eos_token_id", config.vocabSize);
  const template = fields.stringOr("tokenizer.chat_template", null);
  return {
    name: modelName(path),
    source: path,
    paths: [path],
    config,
    tensors: ggufTensors(header, config),
    kvCache: { fp8AskedBy: null, scales: kvScaleTable([], config, "checkpoint") },
    tokenizer,
    chatTemplate: template === null ? null : chatTemplateOf({
      file: path,
      source: template,
      bosToken,
      eosToken: eosId === null ? null : tokenizer.idToToken(eosId) ?? null,
    }),
    generationDefaults: {},
    eosTokenIds: eosTokenIds(fields, tokenizer, template),
  };
}

function eosTokenIds(fields: Fields, tokenizer: Tokenizer, template: string | null): number[] {
  const given = ["eos", "eot", "eom"].map((name) =>
    fields.tokenIdOr(`tokenizer.ggml.${name}_token_id`, tokenizer.vocabSize)
  );
  return endTokenIds(tokenizer, given.filter((id) => id !== null), template);
}

function ggufTensors(header: GgufHeader, config: ModelConfig): TensorSource[] {
  const tensors = header.tensors.map(({ dims, ...tensor }) => ({ ...tensor, shape: dims.toReversed(), file: 0 }));
  return mapTensors(tensors, {
    config,
    architecture: architectures[config.architecture]!,
    paths: [header.path],
    placeOf: ggufPlace,
    // The converter reorders q and k of this architecture alone (LlamaModel.permute of convert_hf_to_gguf.py).
    isInterleaved: config.architecture === "llama",
    needsLmHead: false,
  });
}

function ggufPlace(name: string): TensorPlace | null | undefined {
  const role = own(rolesByName, name);
  if (role !== undefined) return { role, layer: -1 };
  const match = /^blk\.(\d{1,9})\.(.+)$/.exec(name);
  if (match === null) return undefined;
  // Tables of old files that are computed anew.
  if (match[2] === "attn_rot_embd.weight" || match[2] === "attn_rot_embd") return null;
  const layerRole = own(layerRolesByName, match[2]!);
  return layerRole === undefined ? undefined : { role: layerRole, layer: Number(match[1]) };
}

function own<T>(table: Readonly<Record<string, T>>, key: string): T | undefined {
  return Object.hasOwn(table, key) ? table[key] : undefined;
}

/** The file's name without its quantisation and extension: "SmolLM2-135M-Instruct". */
function modelName(path: string): string {
  const base = path.slice(path.lastIndexOf("/") + 1).replace(/\.gguf$/i, "");
  const name = base.replace(/[.-](?:(?:I?Q\d\w*)|B?F16|F32)$/i, "");
  return name === "" ? base : name;
}
