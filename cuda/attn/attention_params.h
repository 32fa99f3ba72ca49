// What decode's and prefill's kernels are both given.
#pragma once

#include <cstdint>

#include "kv/granule_address.h"
#include "octavo.h"

namespace octavo {

struct AttentionParams {
  const uint8_t* pages;
  KvGeometry kv;
  int32_t num_pages;
  const void* q;              // [num_tokens][num_q_heads][head_dim] of q_dtype
  void* out;                  // the same shape and type
  float* lse;                 // [num_tokens][num_q_heads] or nullptr
  const int32_t* page_table;  // [num_seqs][max_pages]
  const float* scales;        // [2][num_kv_heads] or nullptr = 1
  const float* sinks;         // [num_q_heads] or nullptr
  int32_t q_dtype;            // OCTAVO_F32, OCTAVO_F16 or OCTAVO_BF16
  int32_t max_pages;
  int32_t num_q_heads;
  int32_t group;  // q heads of a kv head
  int32_t sliding_window;
  float softmax_scale;
  float logit_softcap;
};

}  // namespace octavo
