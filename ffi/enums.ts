/**
 * The C enums of octavo.h by the names TypeScript uses. `tests/ffi/abi_test.ts` checks every value.
 *
 * @module
 */

/** `octavo_status` */
export const STATUS = {
  OK: 0,
  INVALID_ARGUMENT: 1,
  OUT_OF_MEMORY: 2,
  IO: 3,
  UNSUPPORTED: 4,
  DEVICE: 5,
  INTERNAL: 6,
} as const;

/** `octavo_dtype` */
export const DTYPE = {
  F32: 0,
  F16: 1,
  Q4_0: 2,
  Q4_1: 3,
  Q5_0: 6,
  Q5_1: 7,
  Q8_0: 8,
  Q2_K: 10,
  Q3_K: 11,
  Q4_K: 12,
  Q5_K: 13,
  Q6_K: 14,
  IQ4_NL: 20,
  IQ4_XS: 23,
  BF16: 30,
  F8_E4M3: 100,
} as const;

/** `octavo_kv_dtype` */
export const KV_DTYPE = {
  float32: 0,
  float16: 1,
  bfloat16: 2,
  fp8_e4m3: 3,
  fp8_e5m2: 4,
  fp8_per_token_head: 5,
  int8: 6,
  int8_per_token_head: 7,
  k8v4: 8,
  int4: 9,
} as const;

/** `octavo_kv_stats_mode` */
export const KV_STATS_MODE = { off: 0, errors: 1, histograms: 2 } as const;

/** `octavo_quantization` */
export const QUANTIZATION = { none: 0, fp8: 1 } as const;

/** `OCTAVO_FILE_RANDOM` */
export const FILE_RANDOM = -1;

/** `octavo_activation` */
export const ACTIVATION = { silu: 0, gelu_tanh: 1 } as const;

/** `octavo_role` */
export const ROLE = {
  token_embedding: 0,
  output_norm: 1,
  lm_head: 2,
  rope_factors: 3,
  attn_norm: 16,
  q_proj: 17,
  k_proj: 18,
  v_proj: 19,
  o_proj: 20,
  q_bias: 21,
  k_bias: 22,
  v_bias: 23,
  o_bias: 24,
  q_norm: 25,
  k_norm: 26,
  attn_post_norm: 27,
  ffn_norm: 28,
  gate_proj: 29,
  up_proj: 30,
  down_proj: 31,
  ffn_post_norm: 32,
  attn_sinks: 33,
} as const;

/** Bits of the step buffer's edit_flags. */
export const EDIT_FLAG = { SEEN: 1, BANNED: 2 } as const;

/** `OCTAVO_MAX_KV_DTYPES` */
export const MAX_KV_DTYPES = 8;
