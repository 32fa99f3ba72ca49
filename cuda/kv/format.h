// What each KV dtype stores of a row (one token's K or V of one head): codes, and scales that lie with them.
#pragma once

#include <cstdint>

#include "arch/host_device.h"
#include "arch/inline.h"
#include "octavo.h"

namespace octavo {

struct KvRowFormat {
  int32_t code;       // the octavo_kv_dtype that names the codes: FLOAT32 .. FP8_E5M2 or INT8
  int32_t code_bytes;
  bool has_scale;     // one f32 a row

  OCTAVO_HOST_DEVICE OCTAVO_INLINE constexpr int32_t codes_bytes(int32_t head_dim) const {
    return head_dim * code_bytes;
  }
  OCTAVO_HOST_DEVICE OCTAVO_INLINE constexpr int32_t scales_bytes() const { return has_scale ? 4 : 0; }
  // Codes and scales, one after the other, as kv_pack has them.
  OCTAVO_HOST_DEVICE OCTAVO_INLINE constexpr int32_t packed_bytes(int32_t head_dim) const {
    return codes_bytes(head_dim) + scales_bytes();
  }
};

struct KvFormat {
  KvRowFormat key;
  KvRowFormat value;
  bool is_rotated;
};

// The format of a valid octavo_kv_dtype.
OCTAVO_HOST_DEVICE OCTAVO_INLINE constexpr KvFormat kv_format(int32_t kv_dtype) {
  const auto both = [](int32_t code, int32_t bytes, bool has_scale, bool is_rotated) {
    const KvRowFormat row = {code, bytes, has_scale};
    return KvFormat{row, row, is_rotated};
  };
  switch (kv_dtype) {
    case OCTAVO_KV_FLOAT32:
      return both(kv_dtype, 4, false, false);
    case OCTAVO_KV_FLOAT16:
    case OCTAVO_KV_BFLOAT16:
      return both(kv_dtype, 2, false, false);
    case OCTAVO_KV_FP8_PER_TOKEN_HEAD:
      return both(OCTAVO_KV_FP8_E4M3, 1, true, false);
    case OCTAVO_KV_INT8:
      return both(OCTAVO_KV_INT8, 1, true, true);
    case OCTAVO_KV_INT8_PER_TOKEN_HEAD:
      return both(OCTAVO_KV_INT8, 1, true, false);
    default:
      return both(kv_dtype, 1, false, false);
  }
}

// Whether the tokens carry scales, so that the caller gives none.
OCTAVO_HOST_DEVICE OCTAVO_INLINE constexpr bool has_own_scales(int32_t kv_dtype) {
  return kv_dtype >= OCTAVO_KV_FP8_PER_TOKEN_HEAD;
}

// The largest finite magnitude of a code of scaled formats, which a scale's absmax is stored as.
OCTAVO_HOST_DEVICE OCTAVO_INLINE constexpr float largest_code(int32_t code) {
  return code == OCTAVO_KV_FP8_E4M3 ? 448.0f : 127.0f;
}

// Dims that a Hadamard matrix of a rotated format spans.
OCTAVO_HOST_DEVICE OCTAVO_INLINE constexpr int32_t rotation_block(int32_t head_dim) { return head_dim & -head_dim; }

}  // namespace octavo
