// Checks of arguments that arrive through the ABI.
#pragma once

#include <cstdint>

#include "arch/error.h"

namespace octavo {

inline void check_not_null(const char* name, const void* pointer) {
  if (pointer == nullptr) fail(OCTAVO_INVALID_ARGUMENT, "%s must not be NULL", name);
}

// scales: [2][num_kv_heads], K then V, finite and above 0; nullptr is allowed.
void check_scales(const float* scales, int32_t num_kv_heads);

}  // namespace octavo
