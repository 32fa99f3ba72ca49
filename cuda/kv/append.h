// New tokens into the cache on the GPU, in one kernel: qk-norm, RoPE, quantisation, paged write; and the rotated Q.
#pragma once

#include <cstdint>

#include "arch/gpu.h"
#include "kv/granule_address.h"

namespace octavo {

// What octavo_engine_kv_stats tells of one head's K or V.
struct KvStatsRow {
  uint64_t absmax_bits;  // of the f32
  unsigned long long num_saturated;
  double square_sum;
  double error_sum;
};

// Inputs are rows of in_dtype (OCTAVO_F32, OCTAVO_F16, OCTAVO_BF16); a token's rows lie stride elements apart.
// What a model does not have is nullptr.
struct AppendParams {
  KvGeometry kv;
  KvStatsRow* stats;  // [2][num_kv_heads], added to, or nullptr
  uint8_t* pages;
  const void* q;  // [num_tokens][num_q_heads][head_dim] or nullptr: K and V only
  const void* k;  // [num_tokens][num_kv_heads][head_dim]
  const void* v;
  int64_t q_stride;
  int64_t k_stride;
  int64_t v_stride;
  void* q_out;          // [num_tokens][num_q_heads][head_dim] of q_out_dtype
  const float* q_norm;  // [head_dim] RMSNorm weights of each q and k head, before RoPE
  const float* k_norm;
  const float* cosines;  // [num_tokens][head_dim / 2] of the tokens' positions (ops/rope.h)
  const float* sines;
  const float* scales;          // [2][num_kv_heads] or nullptr = 1; formats with scales of their own do not look at it
  const float* k_mean;          // [num_kv_heads][head_dim] or nullptr = 0; rotated formats only
  const int32_t* slot_mapping;  // slots outside the pages are skipped
  int64_t num_slots;
  int32_t num_tokens;
  int32_t num_q_heads;
  int32_t head_dim;  // at most 256, a multiple of 8
  int32_t kv_dtype;
  int32_t in_dtype;
  int32_t q_out_dtype;
  float norm_eps;
  float norm_offset;  // added to the norm weights
};

// Enqueues the kernel. Of tokens that name the same slot, one stays.
void append_gpu(const AppendParams& params, GpuStream stream, bool overlap);

}  // namespace octavo
