// Checks of arguments that arrive through the ABI; every build asks the same.
#pragma once

#include <cstdint>

#include "arch/error.h"
#include "octavo.h"

namespace octavo {

inline void check_not_null(const char* name, const void* pointer) {
  if (pointer == nullptr) fail(OCTAVO_INVALID_ARGUMENT, "%s must not be NULL", name);
}

// 0 or more.
void check_count(const char* name, int32_t count);

// Finite and above 0.
void check_scale(float scale);

// scales: [2][num_kv_heads] in host memory, K then V, each as check_scale; nullptr is allowed.
void check_scales(const float* scales, int32_t num_kv_heads);

// nullptr where the format has scales of its own. What scales points at is not read.
void check_scales_allowed(int32_t kv_dtype, const float* scales);

// nullptr where the format is not rotated. What k_mean points at is not read.
void check_mean_allowed(int32_t kv_dtype, const float* k_mean);

// What the calls that move tokens into and out of pages have in common. What the pointers point at is not read: it may
// be the device's.
void check_token_arguments(const octavo_kv_shape* shape, const void* pages, const void* k, const void* v,
                           const int32_t* slot_mapping, int32_t num_tokens);

}  // namespace octavo
