// What every build's KV cache asks of its config and scales.
#pragma once

#include <cstdint>
#include <vector>

#include "model/page_layout.h"
#include "octavo.h"

namespace octavo {

// What octavo_engine_create takes beside the config.
struct KvValues {
  const float* scales;  // [num_layers][2][num_kv_heads] or nullptr = 1
  const float* k_mean;  // [num_layers][num_kv_heads][head_dim] or nullptr = 0
};

// calculate_kv_scales: the largest value maps to these, K's and V's, which leaves 2.2 and 4.5 times head-room below E4M3's
// 448: the constants of vLLM's calculate_kv_scales (K_SCALE_CONSTANT and V_SCALE_CONSTANT).
constexpr float kScaleDivisor[2] = {200, 100};

// The scale of K (part 0) or V (1) whose largest finite magnitude is absmax; 1 where that gives none.
float calculated_scale(float absmax, int32_t part);

// How far calculate_kv_scales has come: off, or
//   counting, not set -> (first step) -> counting, set -> octavo_engine_freeze_kv_scales -> off
class CalculatedScales {
 public:
  explicit CalculatedScales(const octavo_engine_config& config) : is_counting_(config.calculate_kv_scales != 0) {}

  bool is_counting() const { return is_counting_; }
  // Whether a step has set scales.
  bool is_set() const { return is_set_; }
  void end_step() { is_set_ = is_set_ || is_counting_; }
  // Throws Error (OCTAVO_INVALID_ARGUMENT) unless scales are counted and set.
  void check_freeze() const;
  void freeze() { is_counting_ = false; }

 private:
  bool is_counting_;
  bool is_set_ = false;
};

// Whether a kv_dtype has scales from outside: the caller's, or those of calculate_kv_scales.
bool takes_scales(int32_t kv_dtype);

// Throws Error (OCTAVO_INVALID_ARGUMENT): nothing of the mode kv_stats ought to name is counted.
[[noreturn]] void fail_uncounted(const char* mode, const octavo_engine_config& config);

// Which layers store K less its mean, in formats that are rotated: those whose mean ([num_layers][num_kv_heads][head_dim] or
// nullptr = 0) is not all 0. Throws Error (OCTAVO_INVALID_ARGUMENT) for a mean that is not finite.
std::vector<bool> layers_with_mean(const octavo_model_config& model, const PageLayout& layout, const float* k_mean);

// Throws Error (OCTAVO_INVALID_ARGUMENT) where such a layer's softmax sees a constant in K: with a soft-cap or sinks.
void check_mean_unseen(const octavo_model_config& model, int32_t layer, bool has_sinks);

// Throws Error (OCTAVO_INVALID_ARGUMENT) for a scale ([num_layers][2][num_kv_heads] or nullptr) that is not finite and
// above 0, and where calculate_kv_scales cannot be.
void check_kv_scales(const octavo_model_config& model, const octavo_engine_config& config, const float* scales);

}  // namespace octavo
