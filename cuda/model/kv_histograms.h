// How large K (after RoPE) and V were, and K on average, over the steps of an engine: what calibrated scales are made from
// (octavo_engine_kv_histograms).
#pragma once

#include <cstdint>
#include <vector>

#include "octavo.h"

namespace octavo {

class KvHistograms {
 public:
  KvHistograms(int32_t num_layers, int32_t num_kv_heads, int32_t head_dim);

  // Counts a step's K and V of one layer: num_tokens rows of num_kv_heads x head_dim values, stride apart.
  void add(int32_t layer, const float* k, const float* v, int64_t stride, int32_t num_tokens);

  // Copies [num_layers][2][num_kv_heads] largest magnitudes and as many histograms of OCTAVO_KV_STATS_BINS counts.
  // k_sum: [num_layers][num_kv_heads][head_dim] sums of K.
  void copy(float* absmax, double* histogram, double* k_sum) const;

 private:
  int32_t num_kv_heads_;
  int32_t head_dim_;
  std::vector<float> absmax_;
  std::vector<uint64_t> counts_;
  std::vector<double> k_sum_;
};

}  // namespace octavo
