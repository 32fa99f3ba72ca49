// What each KV dtype stores of a row (one token's K or V of one head): codes, and scales that lie with them.
#pragma once

#include <cstdint>

#include "arch/host_device.h"
#include "arch/inline.h"
#include "octavo.h"

namespace octavo {

enum class KvScales {
  kNone,    // the caller's
  kRow,     // one f32 a row
  kGroups,  // one f16 for kGroupDims dims
};

constexpr int32_t kGroupDims = 32;

struct KvRowFormat {
  int32_t code;  // the octavo_kv_dtype that names the codes: FLOAT32 .. FP8_E5M2, INT8 or INT4
  int32_t code_bits;
  KvScales scales;

  OCTAVO_HOST_DEVICE OCTAVO_INLINE constexpr int32_t codes_bytes(int32_t head_dim) const {
    return head_dim * code_bits / 8;
  }
  OCTAVO_HOST_DEVICE OCTAVO_INLINE constexpr int32_t num_scales(int32_t head_dim) const {
    return scales == KvScales::kNone ? 0 : scales == KvScales::kRow ? 1 : head_dim / kGroupDims;
  }
  OCTAVO_HOST_DEVICE OCTAVO_INLINE constexpr int32_t scale_bytes() const { return scales == KvScales::kRow ? 4 : 2; }
  OCTAVO_HOST_DEVICE OCTAVO_INLINE constexpr int32_t scales_bytes(int32_t head_dim) const {
    return num_scales(head_dim) * scale_bytes();
  }
  // Codes and scales, one after the other, as kv_pack has them.
  OCTAVO_HOST_DEVICE OCTAVO_INLINE constexpr int32_t packed_bytes(int32_t head_dim) const {
    return codes_bytes(head_dim) + scales_bytes(head_dim);
  }
};

struct KvFormat {
  KvRowFormat key;
  KvRowFormat value;
  bool is_rotated;
};

// The format of a valid octavo_kv_dtype.
OCTAVO_HOST_DEVICE OCTAVO_INLINE constexpr KvFormat kv_format(int32_t kv_dtype) {
  constexpr KvRowFormat kInt8 = {OCTAVO_KV_INT8, 8, KvScales::kRow};
  constexpr KvRowFormat kInt4 = {OCTAVO_KV_INT4, 4, KvScales::kGroups};
  constexpr KvRowFormat kE4m3 = {OCTAVO_KV_FP8_E4M3, 8, KvScales::kRow};
  switch (kv_dtype) {
    case OCTAVO_KV_FP8_PER_TOKEN_HEAD:
      return {kE4m3, kE4m3, false};
    case OCTAVO_KV_INT8:
      return {kInt8, kInt8, true};
    case OCTAVO_KV_INT8_PER_TOKEN_HEAD:
      return {kInt8, kInt8, false};
    case OCTAVO_KV_K8V4:
      return {kInt8, kInt4, true};
    case OCTAVO_KV_INT4:
      return {kInt4, kInt4, true};
    default: {
      const int32_t bits = kv_dtype == OCTAVO_KV_FLOAT32                                        ? 32
                           : kv_dtype == OCTAVO_KV_FLOAT16 || kv_dtype == OCTAVO_KV_BFLOAT16 ? 16
                                                                                                : 8;
      const KvRowFormat row = {kv_dtype, bits, KvScales::kNone};
      return {row, row, false};
    }
  }
}

// Whether the tokens carry scales, so that the caller gives none.
OCTAVO_HOST_DEVICE OCTAVO_INLINE constexpr bool has_own_scales(int32_t kv_dtype) {
  return kv_dtype >= OCTAVO_KV_FP8_PER_TOKEN_HEAD;
}

// The largest finite magnitude of a code of scaled formats, which a scale's absmax is stored as.
OCTAVO_HOST_DEVICE OCTAVO_INLINE constexpr float largest_code(int32_t code) {
  return code == OCTAVO_KV_FP8_E4M3 ? 448.0f : code == OCTAVO_KV_INT8 ? 127.0f : 7.0f;
}

// Dims that a Hadamard matrix of a rotated format spans.
OCTAVO_HOST_DEVICE OCTAVO_INLINE constexpr int32_t rotation_block(int32_t head_dim) { return head_dim & -head_dim; }

}  // namespace octavo
