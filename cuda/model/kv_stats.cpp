#include "model/kv_stats.h"

#include <cmath>
#include <cstring>

#include "kv/stats_rules.h"

namespace octavo {
namespace {

constexpr int32_t kMaxHeadDim = 256;
constexpr int32_t kInfinityBits = 0x7f800000;
// Fewer tokens are counted sooner than threads are woken.
constexpr int32_t kTokensForThreads = 16;

struct Magnitudes {
  int32_t largest_bits = 0;
  int32_t num_saturated = 0;
};

// Magnitudes compare as their bits do; those of NaN lie above infinity's.
Magnitudes magnitudes_of(const float* x, int32_t n, int32_t limit_bits) {
  Magnitudes result;
  for (int32_t i = 0; i < n; ++i) {
    int32_t bits = 0;
    std::memcpy(&bits, x + i, sizeof bits);
    bits &= 0x7fffffff;
    bits = bits > kInfinityBits ? 0 : bits;
    result.largest_bits = bits > result.largest_bits ? bits : result.largest_bits;
    result.num_saturated += bits > limit_bits ? 1 : 0;
  }
  return result;
}

}  // namespace

KvStats::KvStats(int32_t num_layers, int32_t num_kv_heads)
    : num_kv_heads_(num_kv_heads), rows_(size_t{2} * static_cast<size_t>(num_layers) * static_cast<size_t>(num_kv_heads)) {}

void KvStats::add(int32_t layer, const AppendedTokens& tokens, ThreadPool& threads) {
  Row* rows = rows_.data() + int64_t{2} * layer * num_kv_heads_;
  const auto add_row = [&](int64_t row, int) {
    const bool is_value = row >= num_kv_heads_;
    add_head(tokens, static_cast<int32_t>(is_value ? row - num_kv_heads_ : row), is_value, rows[row]);
  };
  if (tokens.num_tokens >= kTokensForThreads) {
    threads.run(int64_t{2} * num_kv_heads_, add_row);
  } else {
    for (int64_t row = 0; row < int64_t{2} * num_kv_heads_; ++row) add_row(row, 0);
  }
}

void KvStats::add_head(const AppendedTokens& tokens, int32_t kv_head, bool is_value, Row& row) {
  const octavo_kv_shape& shape = tokens.shape;
  const float* scales = tokens.constants.scales;
  const float scale = scales == nullptr ? 1.0f : scales[(is_value ? shape.num_kv_heads : 0) + kv_head];
  const int32_t limit_bits = __builtin_bit_cast(int32_t, saturation_limit(shape.kv_dtype) * scale);
  float stored[kMaxHeadDim];
  for (int32_t token = 0; token < tokens.num_tokens; ++token) {
    const float* x = (is_value ? tokens.v : tokens.k) + token * tokens.stride + int64_t{kv_head} * shape.head_dim;
    const Magnitudes found = magnitudes_of(x, shape.head_dim, limit_bits);
    row.absmax = std::fmax(row.absmax, static_cast<double>(__builtin_bit_cast(float, found.largest_bits)));
    row.num_saturated += found.num_saturated;
    const int32_t slot = tokens.slot_mapping[token];
    if (!is_sampled_slot(slot)) continue;
    kv_read(shape, tokens.pages, {slot, kv_head, is_value}, tokens.constants, stored);
    for (int32_t i = 0; i < shape.head_dim; ++i) {
      const double error = static_cast<double>(stored[i]) - static_cast<double>(x[i]);
      if (!std::isfinite(error)) continue;
      row.square_sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
      row.error_sum += error * error;
    }
  }
}

void KvStats::copy(double* stats, double* num_tokens) const {
  static_assert(sizeof(Row) == 4 * sizeof(double), "rows are copied as octavo_engine_kv_stats has them");
  std::memcpy(stats, rows_.data(), rows_.size() * sizeof(Row));
  *num_tokens = num_tokens_;
}

}  // namespace octavo
