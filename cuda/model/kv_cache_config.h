// What every build's KV cache asks of its config and scales.
#pragma once

#include <cstdint>

#include "octavo.h"

namespace octavo {

// calculate_kv_scales: the first step's largest value maps to these, which leaves 2.2 and 4.5 times head-room below
// E4M3's 448: the constants of vLLM's calculate_kv_scales (K_SCALE_CONSTANT and V_SCALE_CONSTANT).
constexpr float kKeyDivisor = 200;
constexpr float kValueDivisor = 100;

// Whether calculate_kv_scales sets the scales of a layer of this kv_dtype.
bool takes_calculated_scales(int32_t kv_dtype);

// Throws Error (OCTAVO_INVALID_ARGUMENT) for a scale ([num_layers][2][num_kv_heads] or nullptr) that is not finite and
// above 0, and where calculate_kv_scales cannot be.
void check_kv_scales(const octavo_model_config& model, const octavo_engine_config& config, const float* scales);

}  // namespace octavo
