#include "model/kv_cache_config.h"

#include <cmath>

#include "arch/error.h"
#include "kv/format.h"
#include "model/kv_dtypes.h"

namespace octavo {
namespace {

void check_calculated(const octavo_engine_config& config, const float* scales) {
  bool is_taken = false;
  for (int32_t kv = 0; kv < num_kv_dtypes(config); ++kv) is_taken = is_taken || takes_scales(kv_dtype_of(config, kv));
  if (!is_taken) {
    fail(OCTAVO_INVALID_ARGUMENT, "calculate_kv_scales needs kv_dtype fp8_e4m3 or fp8_e5m2, found %d", config.kv_dtype);
  }
  if (scales != nullptr) fail(OCTAVO_INVALID_ARGUMENT, "calculate_kv_scales and kv_scales exclude each other");
}

}  // namespace

float calculated_scale(float absmax, int32_t part) {
  const float scale = absmax / kScaleDivisor[part];
  return scale > 0 ? scale : 1.0f;
}

void CalculatedScales::check_freeze() const {
  if (!is_counting_) fail(OCTAVO_INVALID_ARGUMENT, "no KV scales are being calculated");
  if (!is_set_) fail(OCTAVO_INVALID_ARGUMENT, "KV scales cannot be set before a step has stored anything");
}

bool takes_scales(int32_t kv_dtype) {
  return kv_dtype == OCTAVO_KV_FP8_E4M3 || kv_dtype == OCTAVO_KV_FP8_E5M2;
}

void fail_uncounted(const char* mode, const octavo_engine_config& config) {
  fail(OCTAVO_INVALID_ARGUMENT, "kv_stats must be %s for this, the engine has %d", mode, config.kv_stats);
}

std::vector<bool> layers_with_mean(const octavo_model_config& model, const PageLayout& layout, const float* k_mean) {
  std::vector<bool> result(static_cast<size_t>(model.num_layers));
  const int64_t per_layer = int64_t{model.num_kv_heads} * model.head_dim;
  for (int64_t i = 0; k_mean != nullptr && i < model.num_layers * per_layer; ++i) {
    const int32_t layer = static_cast<int32_t>(i / per_layer);
    if (!std::isfinite(k_mean[i])) {
      fail(OCTAVO_INVALID_ARGUMENT, "K's mean of layer %d must be finite, found %g", layer,
           static_cast<double>(k_mean[i]));
    }
    if (k_mean[i] != 0 && layout.is_rotated(layer)) result[static_cast<size_t>(layer)] = true;
  }
  return result;
}

void check_mean_unseen(const octavo_model_config& model, int32_t layer, bool has_sinks) {
  if (model.attn_logit_softcap == 0 && !has_sinks) return;
  fail(OCTAVO_INVALID_ARGUMENT, "K's mean of layer %d must be 0: the %s of its attention would see it", layer,
       has_sinks ? "sinks" : "soft-cap");
}

void check_kv_scales(const octavo_model_config& model, const octavo_engine_config& config, const float* scales) {
  if (config.calculate_kv_scales != 0) check_calculated(config, scales);
  if (scales == nullptr) return;
  const int64_t per_layer = int64_t{2} * model.num_kv_heads;
  for (int64_t i = 0; i < model.num_layers * per_layer; ++i) {
    if (std::isfinite(scales[i]) && scales[i] > 0) continue;
    fail(OCTAVO_INVALID_ARGUMENT, "%s scale of layer %lld, kv head %lld must be finite and above 0, found %g",
         i % per_layer < model.num_kv_heads ? "K" : "V", static_cast<long long>(i / per_layer),
         static_cast<long long>(i % model.num_kv_heads), static_cast<double>(scales[i]));
  }
}

}  // namespace octavo
