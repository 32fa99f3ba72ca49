// The rotation of rotated KV formats within a warp (octavo.h, octavo_kv_dtype). The CPU's kv/rotation.h gives the same
// bits.
#pragma once

#include "kv/format.h"

namespace octavo {

// x = H x for one head, of which lane holds dims lane + 32 j in x[j]; what lies past head_dim is 0.
template <int kSlots>
__device__ inline void rotate_dims(float (&x)[kSlots], int head_dim) {
  const int block = rotation_block(head_dim);
  const int lane = static_cast<int>(threadIdx.x & 31);
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    if (distance >= block) break;
#pragma unroll
    for (int j = 0; j < kSlots; ++j) {
      const float other = __shfl_xor_sync(~0u, x[j], distance);
      x[j] = (lane & distance) != 0 ? other - x[j] : x[j] + other;
    }
  }
#pragma unroll
  for (int distance = 1; distance < kSlots; distance *= 2) {
    if (32 * distance >= block) break;
#pragma unroll
    for (int j = 0; j < kSlots; ++j) {
      if ((j & distance) != 0 || j + distance >= kSlots) continue;
      const float low = x[j];
      x[j] = low + x[j + distance];
      x[j + distance] = low - x[j + distance];
    }
  }
  const float norm = 1.0f / sqrtf(static_cast<float>(block));
#pragma unroll
  for (int j = 0; j < kSlots; ++j) x[j] *= norm;
}

}  // namespace octavo
