#include "model/kv_cache.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "arch/error.h"
#include "kv/pages.h"
#include "model/checked_size.h"

namespace octavo {
namespace {

// The first step's largest value maps to these, which leaves 2.2 and 4.5 times head-room below E4M3's 448: the constants
// of vLLM's calculate_kv_scales (K_SCALE_CONSTANT and V_SCALE_CONSTANT).
constexpr float kKeyDivisor = 200;
constexpr float kValueDivisor = 100;

octavo_kv_shape make_shape(const octavo_model_config& model, const octavo_engine_config& config) {
  const octavo_kv_shape shape = {config.kv_dtype,    config.page_size, config.num_pages,
                                 model.num_kv_heads, model.head_dim,   0};
  check_kv_shape(shape);
  return shape;
}

void check_scales(const octavo_model_config& model, const float* scales) {
  const int64_t per_layer = int64_t{2} * model.num_kv_heads;
  for (int64_t i = 0; i < model.num_layers * per_layer; ++i) {
    if (std::isfinite(scales[i]) && scales[i] > 0) continue;
    fail(OCTAVO_INVALID_ARGUMENT, "%s scale of layer %lld, kv head %lld must be finite and above 0, found %g",
         i % per_layer < model.num_kv_heads ? "K" : "V", static_cast<long long>(i / per_layer),
         static_cast<long long>(i % model.num_kv_heads), scales[i]);
  }
}

}  // namespace

uint64_t KvCache::size_bytes(const octavo_model_config& model, const octavo_engine_config& config) {
  const uint64_t page_bytes = static_cast<uint64_t>(kv_layer_page_bytes(make_shape(model, config)));
  return checked_product("the KV cache", {static_cast<uint64_t>(model.num_layers),
                                          static_cast<uint64_t>(config.num_pages), page_bytes});
}

KvCache::KvCache(const octavo_model_config& model, const octavo_engine_config& config, const float* scales)
    : shape_(make_shape(model, config)),
      layer_bytes_(kv_layer_page_bytes(shape_) * config.num_pages),
      pages_(size_bytes(model, config)),
      num_scales_(size_t{2} * static_cast<size_t>(model.num_layers) * static_cast<size_t>(model.num_kv_heads)),
      calculates_scales_(config.calculate_kv_scales != 0) {
  if (calculates_scales_) {
    const bool is_fp8 = config.kv_dtype == OCTAVO_KV_FP8_E4M3 || config.kv_dtype == OCTAVO_KV_FP8_E5M2;
    if (!is_fp8) fail(OCTAVO_INVALID_ARGUMENT, "calculate_kv_scales needs an FP8 kv_dtype, found %d", config.kv_dtype);
    if (scales != nullptr) fail(OCTAVO_INVALID_ARGUMENT, "calculate_kv_scales and kv_scales exclude each other");
    scales_.assign(num_scales_, 1.0f);
  }
  if (scales == nullptr) return;
  check_scales(model, scales);
  scales_.assign(scales, scales + num_scales_);
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
