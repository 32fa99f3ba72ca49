// What the cache did to K and V: magnitudes, saturated elements and errors of sampled tokens (octavo_engine_kv_stats).
#pragma once

#include <cstdint>
#include <vector>

#include "arch/thread_pool.h"
#include "kv/pages.h"
#include "octavo.h"

namespace octavo {

// A step's tokens of one layer, already appended. k, v: rows of [num_kv_heads][head_dim], stride floats apart.
struct AppendedTokens {
  const octavo_kv_shape& shape;
  const uint8_t* pages;
  const KvConstants& constants;
  const float* k;
  const float* v;
  int64_t stride;
  const int32_t* slot_mapping;
  int32_t num_tokens;
};

class KvStats {
 public:
  KvStats(int32_t num_layers, int32_t num_kv_heads);

  // Counts a layer of a step.
  void add(int32_t layer, const AppendedTokens& tokens, ThreadPool& threads);
  // Counts the tokens of a step, once for all layers.
  void add_tokens(int32_t num_tokens) { num_tokens_ += num_tokens; }

  // Arguments as octavo_engine_kv_stats's.
  void copy(double* stats, double* num_tokens) const;

 private:
  struct Row {
    double absmax = 0;
    double num_saturated = 0;
    double square_sum = 0;
    double error_sum = 0;
  };

  static void add_head(const AppendedTokens& tokens, int32_t kv_head, bool is_value, Row& row);

  int32_t num_kv_heads_;
  std::vector<Row> rows_;  // [num_layers][2][num_kv_heads]
  double num_tokens_ = 0;
};

}  // namespace octavo
