#include "kv/checks.h"

#include <cmath>

#include "kv/format.h"
#include "kv/shape.h"

namespace octavo {
namespace {

bool is_scale(float scale) { return std::isfinite(scale) && scale > 0; }

}  // namespace

void check_count(const char* name, int32_t count) {
  if (count < 0) fail(OCTAVO_INVALID_ARGUMENT, "%s must not be negative, found %d", name, count);
}

void check_scale(float scale) {
  if (is_scale(scale)) return;
  fail(OCTAVO_INVALID_ARGUMENT, "scale must be finite and above 0, found %g", static_cast<double>(scale));
}

void check_scales(const float* scales, int32_t num_kv_heads) {
  if (scales == nullptr) return;
  for (int32_t i = 0; i < 2 * num_kv_heads; ++i) {
    if (is_scale(scales[i])) continue;
    fail(OCTAVO_INVALID_ARGUMENT, "%s scale of kv head %d must be finite and above 0, found %g",
         i < num_kv_heads ? "k" : "v", i % num_kv_heads, static_cast<double>(scales[i]));
  }
}

void check_scales_allowed(int32_t kv_dtype, const float* scales) {
  if (scales == nullptr || !has_own_scales(kv_dtype)) return;
  fail(OCTAVO_INVALID_ARGUMENT, "scales must be NULL: kv_dtype %d has scales of its own", kv_dtype);
}

void check_mean_allowed(int32_t kv_dtype, const float* k_mean) {
  if (k_mean == nullptr || kv_format(kv_dtype).is_rotated) return;
  fail(OCTAVO_INVALID_ARGUMENT, "k_mean must be NULL for kv_dtype %d, which is not rotated", kv_dtype);
}

void check_token_arguments(const octavo_kv_shape* shape, const void* pages, const void* k, const void* v,
                           const int32_t* slot_mapping, int32_t num_tokens) {
  check_not_null("shape", shape);
  check_kv_shape(*shape);
  check_count("num_tokens", num_tokens);
  if (num_tokens == 0) return;
  check_not_null("pages", pages);
  check_not_null("k", k);
  check_not_null("v", v);
  check_not_null("slot_mapping", slot_mapping);
}

}  // namespace octavo
