#include "model/kv_cache.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kv/format.h"
#include "model/kv_cache_config.h"

namespace octavo {

KvCache::KvCache(const octavo_model_config& model, const std::vector<octavo_layer_config>& layers,
                 const octavo_engine_config& config, const float* scales)
    : layout_(model, layers, config),
      pages_(layout_.size_bytes()),
      num_scales_(size_t{2} * static_cast<size_t>(model.num_layers) * static_cast<size_t>(model.num_kv_heads)),
      calculates_scales_(config.calculate_kv_scales != 0) {
  check_kv_scales(model, config, scales);
  if (calculates_scales_) scales_.assign(num_scales_, 1.0f);
  if (scales != nullptr) scales_.assign(scales, scales + num_scales_);
}

void KvCache::calculate_layer_scales(int32_t layer, const float* k, const float* v, int64_t stride,
                                     int32_t num_tokens) {
  const octavo_kv_shape& shape = layer_shape(layer);
  const int64_t width = int64_t{shape.num_kv_heads} * shape.head_dim;
  float* scales = scales_.data() + int64_t{2} * layer * shape.num_kv_heads;
  for (const auto& [rows, headroom] : {std::pair{k, kKeyDivisor}, std::pair{v, kValueDivisor}}) {
    float largest = 0;
    for (int32_t token = 0; token < num_tokens; ++token) {
      for (int64_t i = 0; i < width; ++i) largest = std::max(largest, std::fabs(rows[token * stride + i]));
    }
    const float scale = largest / headroom;
    std::fill_n(scales, shape.num_kv_heads, std::isfinite(scale) && scale > 0 ? scale : 1.0f);
    scales += shape.num_kv_heads;
  }
}

void KvCache::copy_scales(float* scales) const {
  if (scales_.empty()) {
    std::fill_n(scales, num_scales_, 1.0f);
  } else {
    std::copy(scales_.begin(), scales_.end(), scales);
  }
}

bool KvCache::calculates_scales(int32_t layer) const {
  return calculates_scales_ && takes_calculated_scales(layer_shape(layer).kv_dtype);
}

const float* KvCache::layer_scales(int32_t layer) const {
  const octavo_kv_shape& shape = layer_shape(layer);
  if (scales_.empty() || has_own_scales(shape.kv_dtype)) return nullptr;
  return scales_.data() + int64_t{2} * layer * shape.num_kv_heads;
}

}  // namespace octavo
