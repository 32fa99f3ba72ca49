/**
 * Names under which checkpoints keep the scales of an FP8 KV cache.
 *
 * @module
 */

/**
 * What a KV scale's name says; "kv": one scale for both; "k_mean": K's mean; "unused": scales
 * of Q and P, which are never quantised.
 */
export interface KvScalePlace {
  readonly layer: number;
  readonly kind: "k" | "v" | "kv" | "k_zero_point" | "v_zero_point" | "k_mean" | "unused";
}

/*
 * self_attn.k_scale                      compressed-tensors since 2024
 * self_attn.k_proj.output_scale          compressed-tensors before, Quark
 * self_attn.k_proj.k_scale               ModelOpt
 * self_attn.qkv_proj.k_scale             exports with q, k and v in one matrix; .output_scale is for both
 * self_attn.kv_scale, .attn.k_scale      AutoFP8; names as vLLM keeps them
 * attention.kv_cache_scaling_factor      TensorRT-LLM
 * self_attn.k_mean                       ours, for rotated integer caches
 */
const pattern = new RegExp(
  String.raw`(?:^|\.)layers\.(\d{1,9})\.(?:self_attn|attention|attn|mixer)\.(?:attn\.)?(?:` +
    String.raw`(?<direct>kv|k|v|q)_scale|(?<mean>k_mean)|(?<zero>k|v|q)_zero_point|(?<proj>k|v|q)_proj\.output_scale|` +
    String.raw`(?:k_proj|v_proj|q_proj|qkv_proj)\.(?<inner>k|v|q)_scale|(?<fused>qkv_proj\.output_scale)|` +
    String.raw`(?<legacy>kv_cache_scaling_factor)|(?<prob>prob(?:_output)?_scale))$`,
);

/** What a tensor's name says, or null when it is no scale of the KV cache. */
export function kvScalePlace(name: string): KvScalePlace | null {
  const match = pattern.exec(name);
  if (match === null) return null;
  const layer = Number(match[1]);
  const { direct, proj, inner, zero, fused, legacy, mean } = match.groups!;
  if (mean !== undefined) return { layer, kind: "k_mean" };
  const one = direct ?? proj ?? inner;
  if (fused !== undefined || legacy !== undefined || one === "kv") return { layer, kind: "kv" };
  if (one === "k" || one === "v") return { layer, kind: one };
  if (zero === "k" || zero === "v") return { layer, kind: `${zero}_zero_point` };
  return { layer, kind: "unused" };
}
