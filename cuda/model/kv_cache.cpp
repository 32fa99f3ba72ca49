#include "model/kv_cache.h"

#include <algorithm>
#include <cmath>

#include "kv/format.h"
#include "model/kv_cache_config.h"

namespace octavo {

KvCache::KvCache(const octavo_model_config& model, const std::vector<octavo_layer_config>& layers,
                 const octavo_engine_config& config, const KvValues& values)
    : num_kv_heads_(model.num_kv_heads),
      layout_(model, layers, config),
      pages_(layout_.size_bytes()),
      num_scales_(size_t{2} * static_cast<size_t>(model.num_layers) * static_cast<size_t>(model.num_kv_heads)),
      state_(config),
      has_mean_(layers_with_mean(model, layout_, values.k_mean)) {
  check_kv_scales(model, config, values.scales);
  if (state_.is_counting()) {
    scales_.assign(num_scales_, 1.0f);
    absmax_.assign(size_t{2} * layers.size(), 0.0f);
  }
  if (values.scales != nullptr) scales_.assign(values.scales, values.scales + num_scales_);
  if (values.k_mean != nullptr) {
    k_mean_.assign(values.k_mean, values.k_mean + layers.size() * static_cast<size_t>(model.num_kv_heads) *
                                                      static_cast<size_t>(model.head_dim));
  }
}

void KvCache::calculate_layer_scales(int32_t layer, const float* k, const float* v, int64_t stride,
                                     int32_t num_tokens) {
  const octavo_kv_shape& shape = layer_shape(0, layer);
  const int64_t width = int64_t{shape.num_kv_heads} * shape.head_dim;
  float* largest = absmax_.data() + int64_t{2} * layer;
  for (const float* rows : {k, v}) {
    for (int32_t token = 0; token < num_tokens; ++token) {
      for (int64_t i = 0; i < width; ++i) {
        const float magnitude = std::fabs(rows[token * stride + i]);
        if (magnitude > *largest && std::isfinite(magnitude)) *largest = magnitude;
      }
    }
    ++largest;
  }
  if (!state_.is_set()) set_layer_scales(layer);
}

void KvCache::set_layer_scales(int32_t layer) {
  const int32_t heads = num_kv_heads_;
  for (const int32_t part : {0, 1}) {
    const int64_t row = int64_t{2} * layer + part;
    std::fill_n(scales_.data() + row * heads, heads, calculated_scale(absmax_[static_cast<size_t>(row)], part));
  }
}

void KvCache::freeze_scales() {
  state_.check_freeze();
  for (int32_t layer = 0; 2 * layer < static_cast<int32_t>(absmax_.size()); ++layer) {
    if (calculates_scales(layer)) set_layer_scales(layer);
  }
  state_.freeze();
}

void KvCache::copy_scales(float* scales) const {
  if (scales_.empty()) {
    std::fill_n(scales, num_scales_, 1.0f);
  } else {
    std::copy(scales_.begin(), scales_.end(), scales);
  }
}

bool KvCache::calculates_scales(int32_t layer) const {
  return state_.is_counting() && layout_.takes_scales(layer);
}

const float* KvCache::layer_scales(int32_t kv_index, int32_t layer) const {
  if (scales_.empty() || !takes_scales(layer_shape(kv_index, layer).kv_dtype)) return nullptr;
  return scales_.data() + int64_t{2} * layer * num_kv_heads_;
}

const float* KvCache::layer_k_mean(int32_t kv_index, int32_t layer) const {
  const octavo_kv_shape& shape = layer_shape(kv_index, layer);
  if (!has_k_mean(layer) || !kv_format(shape.kv_dtype).is_rotated) return nullptr;
  return k_mean_.data() + int64_t{layer} * shape.num_kv_heads * shape.head_dim;
}

}  // namespace octavo
