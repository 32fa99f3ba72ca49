#include "model/kv_cache.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kv/pages.h"
#include "model/checked_size.h"
#include "model/kv_cache_config.h"

namespace octavo {

uint64_t KvCache::size_bytes(const octavo_model_config& model, const octavo_engine_config& config) {
  const uint64_t page_bytes = static_cast<uint64_t>(kv_layer_page_bytes(make_kv_shape(model, config)));
  return checked_product("the KV cache", {static_cast<uint64_t>(model.num_layers),
                                          static_cast<uint64_t>(config.num_pages), page_bytes});
}

KvCache::KvCache(const octavo_model_config& model, const octavo_engine_config& config, const float* scales)
    : shape_(make_kv_shape(model, config)),
      layer_bytes_(kv_layer_page_bytes(shape_) * config.num_pages),
      pages_(size_bytes(model, config)),
      num_scales_(size_t{2} * static_cast<size_t>(model.num_layers) * static_cast<size_t>(model.num_kv_heads)),
      calculates_scales_(config.calculate_kv_scales != 0) {
  check_kv_scales(model, config, scales);
  if (calculates_scales_) scales_.assign(num_scales_, 1.0f);
  if (scales != nullptr) scales_.assign(scales, scales + num_scales_);
}

void KvCache::calculate_layer_scales(int32_t layer, const float* k, const float* v, int64_t stride,
                                     int32_t num_tokens) {
  const int64_t width = int64_t{shape_.num_kv_heads} * shape_.head_dim;
  float* scales = scales_.data() + int64_t{2} * layer * shape_.num_kv_heads;
  for (const auto& [rows, headroom] : {std::pair{k, kKeyDivisor}, std::pair{v, kValueDivisor}}) {
    float largest = 0;
    for (int32_t token = 0; token < num_tokens; ++token) {
      for (int64_t i = 0; i < width; ++i) largest = std::max(largest, std::fabs(rows[token * stride + i]));
    }
    const float scale = largest / headroom;
    std::fill_n(scales, shape_.num_kv_heads, std::isfinite(scale) && scale > 0 ? scale : 1.0f);
    scales += shape_.num_kv_heads;
  }
}

void KvCache::copy_scales(float* scales) const {
  if (scales_.empty()) {
    std::fill_n(scales, num_scales_, 1.0f);
  } else {
    std::copy(scales_.begin(), scales_.end(), scales);
  }
}

const float* KvCache::layer_scales(int32_t layer) const {
  return scales_.empty() ? nullptr : scales_.data() + int64_t{2} * layer * shape_.num_kv_heads;
}

}  // namespace octavo
