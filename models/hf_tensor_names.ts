/**
 * Names of tensors in Hugging Face's checkpoints.
 *
 * @module
 */

import type { Architecture } from "./architectures.ts";
import { kvScalePlace } from "./kv_scale_names.ts";
import type { TensorPlace } from "./model_tensors.ts";
import type { TensorRole } from "./types.ts";

const outside: Readonly<Record<string, TensorRole>> = {
  "embed_tokens.weight": "token_embedding",
  "norm.weight": "output_norm",
};

const inLayer: Readonly<Record<string, TensorRole>> = {
  "input_layernorm.weight": "attn_norm",
  "self_attn.q_proj.weight": "q_proj",
  "self_attn.k_proj.weight": "k_proj",
  "self_attn.v_proj.weight": "v_proj",
  "self_attn.o_proj.weight": "o_proj",
  "self_attn.q_proj.bias": "q_bias",
  "self_attn.k_proj.bias": "k_bias",
  "self_attn.v_proj.bias": "v_bias",
  "self_attn.o_proj.bias": "o_bias",
  "self_attn.q_norm.weight": "q_norm",
  "self_attn.k_norm.weight": "k_norm",
  "mlp.gate_proj.weight": "gate_proj",
  "mlp.up_proj.weight": "up_proj",
  "mlp.down_proj.weight": "down_proj",
};

/** The norm after attention: of its output in Gemma, of the feed-forward's input elsewhere. */
const plainNorms: Readonly<Record<string, TensorRole>> = { "post_attention_layernorm.weight": "ffn_norm" };
const gemmaNorms: Readonly<Record<string, TensorRole>> = {
  "post_attention_layernorm.weight": "attn_post_norm",
  "pre_feedforward_layernorm.weight": "ffn_norm",
  "post_feedforward_layernorm.weight": "ffn_post_norm",
};

/** Prefixes of the decoder: plain, and of a multimodal Gemma 3 as written by transformers 5 and 4. */
const decoderPrefix = /^(?:model\.language_model\.|language_model\.model\.|model\.)(?!language_model\.|vision_tower\.)/;
const lmHead = /^(?:model\.)?(?:language_model\.)?lm_head\.weight$/;

/** Image encoders, which are not run, and tables that are computed anew. */
const unused = /^(?:model\.)?(?:vision_tower|multi_modal_projector)\.|\.rotary_emb\.inv_freq$/;

/** Scales of FP8 weights and of their inputs; the latter are taken from the inputs themselves. */
const weightScale = /\.weight_scale$/;
const inputScale = /_proj\.input_scale$/;

/** The weight whose scales a tensor holds, or null. */
export function scaledWeight(name: string): string | null {
  return weightScale.test(name) ? name.slice(0, -"_scale".length) : null;
}

/** What a tensor's name says; null: known and not needed; undefined: not known. */
export function huggingFacePlace(name: string, architecture: Architecture): TensorPlace | null | undefined {
  if (kvScalePlace(name) !== null || unused.test(name) || inputScale.test(name)) return null;
  if (lmHead.test(name)) return { role: "lm_head", layer: -1 };
  const prefix = decoderPrefix.exec(name);
  if (prefix === null) return undefined;
  const rest = name.slice(prefix[0].length);
  if (Object.hasOwn(outside, rest)) return { role: outside[rest]!, layer: -1 };
  const match = /^layers\.(\d{1,9})\.(.+)$/.exec(rest);
  if (match === null) return undefined;
  const tables = [inLayer, architecture.hasPostNorms ? gemmaNorms : plainNorms];
  const table = tables.find((table) => Object.hasOwn(table, match[2]!));
  return table === undefined ? undefined : { role: table[match[2]!]!, layer: Number(match[1]) };
}
