#include "model/kv_histograms.h"

#include <algorithm>
#include <cmath>

#include "kv/stats_rules.h"

namespace octavo {
namespace {

constexpr int32_t kBins = OCTAVO_KV_STATS_BINS;

}  // namespace

KvHistograms::KvHistograms(int32_t num_layers, int32_t num_kv_heads, int32_t head_dim)
    : num_kv_heads_(num_kv_heads),
      head_dim_(head_dim),
      absmax_(static_cast<size_t>(num_layers) * 2 * static_cast<size_t>(num_kv_heads)),
      counts_(absmax_.size() * kBins),
      k_sum_(absmax_.size() / 2 * static_cast<size_t>(head_dim)) {}

void KvHistograms::add(int32_t layer, const float* k, const float* v, int64_t stride, int32_t num_tokens) {
  size_t row = static_cast<size_t>(layer) * 2 * static_cast<size_t>(num_kv_heads_);
  for (const float* values : {k, v}) {
    for (int32_t head = 0; head < num_kv_heads_; ++head, ++row) {
      uint64_t* counts = counts_.data() + row * kBins;
      for (int32_t token = 0; token < num_tokens; ++token) {
        const float* x = values + token * stride + int64_t{head} * head_dim_;
        for (int32_t i = 0; i < head_dim_; ++i) {
          const float magnitude = std::fabs(x[i]);
          if (std::isnan(magnitude)) continue;
          absmax_[row] = std::max(absmax_[row], magnitude);
          ++counts[kv_stats_bin(magnitude)];
        }
      }
    }
  }
  const int64_t width = int64_t{num_kv_heads_} * head_dim_;
  double* sums = k_sum_.data() + layer * width;
  for (int32_t token = 0; token < num_tokens; ++token) {
    for (int64_t i = 0; i < width; ++i) {
      const float x = k[token * stride + i];
      if (!std::isnan(x)) sums[i] += static_cast<double>(x);
    }
  }
}

void KvHistograms::copy(float* absmax, double* histogram, double* k_sum) const {
  std::copy(k_sum_.begin(), k_sum_.end(), k_sum);
  std::copy(absmax_.begin(), absmax_.end(), absmax);
  std::transform(counts_.begin(), counts_.end(), histogram, [](uint64_t count) { return static_cast<double>(count); });
}

}  // namespace octavo
