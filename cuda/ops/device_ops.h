// The small operations of the GPU's forward pass: the step's tables, embedding, norms with residual, output soft-cap, and
// the values that calculate_kv_scales takes its scales from. Everything is enqueued; with overlap a kernel may start
// while its predecessor still runs (arch/gpu.h).
//
// Activations are rows of compute_dtype (OCTAVO_BF16 or OCTAVO_F16), the residual stream and logits rows of f32.
#pragma once

#include <cstdint>

#include "arch/gpu.h"
#include "octavo.h"
#include "ops/packed_step.h"
#include "ops/step_row.h"

namespace octavo {

// --- The step's tables ---------------------------------------------------------------------------------------------

// The tables that the kernels of a step read; all on the device.
struct StepTables {
  int32_t* tokens;        // [tokens] none below 0
  int32_t* positions;     // [tokens]
  int32_t* slot_mapping;  // [tokens] -1: none
  int32_t* query_len;     // [sequences]
  int32_t* seq_len;       // [sequences]
  int32_t* page_table;    // [sequences][max_pages]
  StepRow* rows;          // [rows]
  int32_t* row_token;     // [rows] the token that each comes after
};

// A graph runs with the counts it was captured for: sequences beyond the step's own get one token 0 at position 0 without
// a slot and seq_len 0; rows beyond get seq_index -1 and token 0.
struct UnpackParams {
  const PackedStep* packed;
  int32_t* step_buffer;    // as octavo_step_layout places it; the runs' target
  const int32_t* sampled;  // [max_samples] of the step before, which tokens below 0 name
  StepTables tables;
  int32_t num_tokens;  // of the graph, at least the step's
  int32_t num_seqs;
  int32_t num_rows;
  int32_t max_pages;
};
void unpack_step(const UnpackParams& params, GpuStream stream, bool overlap);

// --- Rows ----------------------------------------------------------------------------------------------------------

// Rows have at most so many columns, a multiple of 4.
constexpr int32_t kMaxRowColumns = 16384;

struct EmbedParams {
  const void* embedding;  // [vocab_size][columns] of compute_dtype
  const int32_t* tokens;  // [num_tokens]
  const int32_t* positions;
  float* hidden;           // [num_tokens][columns] embedding * scale
  const float* norm;       // [columns]
  void* normed;            // [num_tokens][columns] of compute_dtype: rms_norm(hidden) * norm
  const float* inv_freq;   // [2][half] RoPE's inverse frequencies
  float* cosines[2];       // [num_tokens][half] cos(position * inv_freq) * rope_factor; nullptr: table not used
  float* sines[2];
  float rope_factor[2];
  float scale;
  float eps;
  int32_t num_tokens;
  int32_t columns;
  int32_t half;  // head_dim / 2
  int32_t compute_dtype;
};
void embed_tokens(const EmbedParams& params, GpuStream stream, bool overlap);

// For every row: hidden += post_norm == nullptr ? projected : rms_norm(projected) * post_norm, where there is projected;
// normed = rms_norm(hidden) * norm, where there is norm.
struct NormParams {
  float* hidden;           // [..][columns], written where there is projected
  const float* projected;  // [..][columns] or nullptr
  const float* post_norm;  // [columns] or nullptr
  const float* norm;       // [columns] or nullptr
  void* normed;            // [num_rows][columns] of compute_dtype
  uint8_t* e4m3;           // [num_rows][columns], written instead of normed, with a scale a row; or nullptr
  float* e4m3_scales;      // [num_rows]
  const int32_t* rows;     // [num_rows] which rows of hidden and projected; nullptr: 0, 1, ...
  float eps;
  int32_t num_rows;
  int32_t columns;
  int32_t compute_dtype;
};
void norm_rows(const NormParams& params, GpuStream stream, bool overlap);

// logits = cap * tanh(logits / cap), [count].
struct SoftcapParams {
  float* logits;
  int64_t count;
  float cap;
};
void softcap_logits(const SoftcapParams& params, GpuStream stream, bool overlap);

// --- KV scales -----------------------------------------------------------------------------------------------------

// absmax[part] = the largest finite |value| of part, or what it was if that is more; where scales is given,
// scales[part][kv head] = absmax[part] / divisor[part], or 1 where that is 0. Parts: K, V.
struct KvScalesParams {
  const float* values[2];  // rows of width floats, stride apart: K after its norm and RoPE, V
  int64_t stride[2];
  int32_t width;
  int32_t num_tokens;
  int32_t num_kv_heads;
  float divisor[2];
  float* absmax;  // [2]
  float* scales;  // [2][num_kv_heads] or nullptr
};
void calculate_kv_scales(const KvScalesParams& params, GpuStream stream, bool overlap);

// Adds a layer's K and V to what octavo_engine_kv_histograms tells of it. Parts: K after its norm and RoPE, V.
struct KvHistogramParams {
  const float* values[2];  // rows of [num_kv_heads][head_dim], stride apart
  int64_t stride[2];
  int32_t num_tokens;
  int32_t num_kv_heads;
  int32_t head_dim;         // at most 256
  float* absmax;            // [2][num_kv_heads]
  unsigned long long* counts;  // [2][num_kv_heads][OCTAVO_KV_STATS_BINS]
  double* k_sum;            // [num_kv_heads][head_dim]
};
void count_kv(const KvHistogramParams& params, GpuStream stream, bool overlap);

}  // namespace octavo
