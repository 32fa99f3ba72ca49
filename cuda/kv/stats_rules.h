// What octavo_engine_kv_stats and octavo_engine_kv_histograms count, the same in every build.
#pragma once

#include <cstdint>

#include "arch/host_device.h"
#include "arch/inline.h"
#include "kv/format.h"
#include "octavo.h"

namespace octavo {

// Whether the errors of the token in this slot are measured: one in 64, scattered, so that every place of a page and of a
// sequence has its turn.
OCTAVO_HOST_DEVICE OCTAVO_INLINE constexpr bool is_sampled_slot(int32_t slot) {
  return (static_cast<uint32_t>(slot) * 2654435769u) >> 26 == 0;
}

// The largest magnitude that is stored as it is, in units of the scale: larger ones saturate. Infinity where none does.
OCTAVO_HOST_DEVICE OCTAVO_INLINE constexpr float saturation_limit(int32_t kv_dtype) {
  switch (kv_dtype) {
    case OCTAVO_KV_FLOAT16:
      return 65504.0f;
    case OCTAVO_KV_BFLOAT16:
      return 3.3895313892515355e38f;
    case OCTAVO_KV_FP8_E4M3:
      return 448.0f;
    case OCTAVO_KV_FP8_E5M2:
      return 57344.0f;
    default:
      return __builtin_inff();
  }
}

// The bin of a magnitude that is a number: of the bits of |x|, the exponent and three bits of mantissa, from 2^-24 on.
OCTAVO_HOST_DEVICE OCTAVO_INLINE int32_t kv_stats_bin(float x) {
  constexpr int32_t kFirst = (127 - 24) << 3;
  const int32_t bin = ((__builtin_bit_cast(int32_t, x) & 0x7fffffff) >> 20) - kFirst;
  return bin < 0 ? 0 : bin < OCTAVO_KV_STATS_BINS ? bin : OCTAVO_KV_STATS_BINS - 1;
}

}  // namespace octavo
