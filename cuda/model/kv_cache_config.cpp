#include "model/kv_cache_config.h"

#include <cmath>

#include "arch/error.h"

namespace octavo {
namespace {

void check_calculated(const octavo_engine_config& config, const float* scales) {
  if (!takes_calculated_scales(config.kv_dtype)) {
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

bool takes_calculated_scales(int32_t kv_dtype) {
  return kv_dtype == OCTAVO_KV_FP8_E4M3 || kv_dtype == OCTAVO_KV_FP8_E5M2;
}

void fail_uncounted(const char* mode, const octavo_engine_config& config) {
  fail(OCTAVO_INVALID_ARGUMENT, "kv_stats must be %s for this, the engine has %d", mode, config.kv_stats);
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
