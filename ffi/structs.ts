/**
 * The structs of octavo.h, field for field and in order. `tests/ffi/abi_test.ts` compares them with the header.
 *
 * @module
 */

import { Struct } from "./struct.ts";

export const DEVICE_INFO = new Struct("octavo_device_info_t", {
  abi_version: "i32",
  num_cores: "i32",
  memory_bytes: "f64",
  memory_free_bytes: "f64",
  backend: ["char", 16],
  name: ["char", 128],
  isa: ["char", 64],
});

export const MODEL_CONFIG = new Struct("octavo_model_config", {
  vocab_size: "i32",
  hidden_size: "i32",
  intermediate_size: "i32",
  num_layers: "i32",
  num_q_heads: "i32",
  num_kv_heads: "i32",
  head_dim: "i32",
  max_model_len: "i32",
  activation: "i32",
  num_threads: "i32",
  compute_dtype: "i32",
  quantization: "i32",
  rms_norm_eps: "f32",
  norm_weight_offset: "f32",
  embedding_scale: "f32",
  attn_softmax_scale: "f32",
  attn_logit_softcap: "f32",
  final_logit_softcap: "f32",
  rope_attn_factor: ["f32", 2],
});

export const LAYER_CONFIG = new Struct("octavo_layer_config", {
  sliding_window: "i32",
  rope_table: "i32",
  kv_dtype: "i32",
});

export const TENSOR = new Struct("octavo_tensor", {
  role: "i32",
  layer: "i32",
  dtype: "i32",
  file: "i32",
  offset_bytes: "i64",
  size_bytes: "i64",
  rows: "i32",
  cols: "i32",
  interleaved_heads: "i32",
  num_scales: "i32",
  scale_file: "i32",
  scale_dtype: "i32",
  scale_offset_bytes: "i64",
});

export const ENGINE_CONFIG = new Struct("octavo_engine_config", {
  kv_dtype: "i32",
  page_size: "i32",
  num_pages: "i32",
  max_num_seqs: "i32",
  max_num_batched_tokens: "i32",
  max_samples: "i32",
  max_pages_per_seq: "i32",
  max_logprobs: "i32",
  max_logit_edits: "i32",
  max_token_masks: "i32",
  token_mask_words: "i32",
  max_scores: "i32",
  num_threads: "i32",
  calculate_kv_scales: "i32",
  kv_stats: "i32",
  num_host_pages: "i32",
  num_more_kv_dtypes: "i32",
  more_kv_dtypes: ["i32", 7],
  more_page_sizes: ["i32", 7],
});

export const TRANSFER_STATS = new Struct("octavo_transfer_stats", {
  num_submitted: "f64",
  num_finished: "f64",
  saved_bytes: "f64",
  saved_seconds: "f64",
  restored_bytes: "f64",
  restored_seconds: "f64",
});

export const STEP_LAYOUT = new Struct("octavo_step_layout", {
  total_bytes: "f64",
  header: "i32",
  tokens: "i32",
  query_len: "i32",
  seq_len: "i32",
  page_table: "i32",
  sample: "i32",
  temperature: "i32",
  top_k: "i32",
  top_p: "i32",
  min_p: "i32",
  repetition_penalty: "i32",
  presence_penalty: "i32",
  frequency_penalty: "i32",
  seed: "i32",
  sample_index: "i32",
  num_logprobs: "i32",
  edit_begin: "i32",
  edit_token: "i32",
  edit_count: "i32",
  edit_flags: "i32",
  edit_bias: "i32",
  mask_index: "i32",
  token_masks: "i32",
  score_index: "i32",
  score_token: "i32",
  score_num_logprobs: "i32",
  kv_index: "i32",
  sampled: "i32",
  sampled_logprob: "i32",
  top_token: "i32",
  top_logprob: "i32",
  score_logprob: "i32",
  score_rank: "i32",
  score_top_token: "i32",
  score_top_logprob: "i32",
});

export const KV_SHAPE = new Struct("octavo_kv_shape", {
  kv_dtype: "i32",
  page_size: "i32",
  num_pages: "i32",
  num_kv_heads: "i32",
  head_dim: "i32",
  page_stride: "i32",
});

export const ATTENTION_CONFIG = new Struct("octavo_attention_config", {
  num_seqs: "i32",
  num_tokens: "i32",
  num_q_heads: "i32",
  max_pages_per_seq: "i32",
  sliding_window: "i32",
  num_threads: "i32",
  softmax_scale: "f32",
  logit_softcap: "f32",
  q_dtype: "i32",
  max_query_len: "i32",
  reuse_plan: "i32",
  reserved: "i32",
});

export const SAMPLING = new Struct("octavo_sampling", {
  temperature: "f32",
  top_p: "f32",
  min_p: "f32",
  repetition_penalty: "f32",
  presence_penalty: "f32",
  frequency_penalty: "f32",
  top_k: "i32",
  sample_index: "i32",
  seed_low: "u32",
  seed_high: "u32",
  num_edits: "i32",
  num_draws: "i32",
});

export const COMPARISON = new Struct("octavo_comparison", {
  kl: "f64",
  reference_logprob: "f64",
  logprob: "f64",
  reference_top: "i32",
  top: "i32",
});
