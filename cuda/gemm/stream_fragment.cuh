// A stage's weights as MMA operands in registers. A warp's 16 rows lie at `rows`; row r at r * 128, chunk c of 16 bytes
// at c ^ (r & 7).
#pragma once

#include "arch/ptx.cuh"
#include "gemm/stream_tile.h"

namespace octavo {

// Two E4M3 bytes (in the lower half) to two elements of a 16-bit type, exactly.
template <int kType>
__device__ inline uint32_t widen_e4m3x2(uint32_t two) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  if constexpr (kType == OCTAVO_F16) {
    uint32_t result;
    asm("{ .reg .b16 pair; cvt.u16.u32 pair, %1; cvt.rn.f16x2.e4m3x2 %0, pair; }" : "=r"(result) : "r"(two));
    return result;
  }
#endif
  // Sign-extended bytes, moved so that exponent and mantissa meet the wider type's: value x 2^(7 - its bias), subnormals
  // too. NaN becomes 480: finished weights have none.
  uint32_t spread;
  asm("prmt.b32 %0, %1, 0, 0x9180;" : "=r"(spread) : "r"(two));  // b0, its sign x 8, b1, its sign x 8
  if constexpr (kType == OCTAVO_F16) {
    const uint32_t bits = (spread << 7) & 0xBF80BF80u;
    const __half2 wide = __hmul2(*reinterpret_cast<const __half2*>(&bits), __half2half2(__ushort_as_half(0x5C00)));
    return *reinterpret_cast<const uint32_t*>(&wide);
  } else {
    const uint32_t bits = (spread << 4) & 0x87F087F0u;
    const __nv_bfloat162 wide = __hmul2(*reinterpret_cast<const __nv_bfloat162*>(&bits),
                                        __bfloat162bfloat162(__ushort_as_bfloat16(0x7B80)));  // 2^120
    return *reinterpret_cast<const uint32_t*>(&wide);
  }
}

// Fragment of k16 step `step` (16 bytes of E4M3 a row): a lane takes columns 2t, 2t + 1, 2t + 8, 2t + 9 of rows g, g + 8.
template <int kType>
__device__ inline void load_e4m3_fragment(uint32_t rows, int step, int lane, uint32_t (&a)[4]) {
  const int g = lane >> 2;
  const uint32_t at = rows + g * 128 + ((g ^ step) << 4) + 2 * (lane & 3);
  a[0] = widen_e4m3x2<kType>(load_shared_16(at));
  a[1] = widen_e4m3x2<kType>(load_shared_16(at + 8 * 128));
  a[2] = widen_e4m3x2<kType>(load_shared_16(at + 8));
  a[3] = widen_e4m3x2<kType>(load_shared_16(at + 8 * 128 + 8));
}

// Fragment of k16 step `step` of 16-bit weights (32 bytes a row).
__device__ inline void load_16_bit_fragment(uint32_t rows, int step, int lane, uint32_t (&a)[4]) {
  const int row = lane & 15;
  const int chunk = 2 * step + (lane >> 4);
  ldmatrix_x4(a, rows + row * 128 + ((chunk ^ (row & 7)) << 4));
}

}  // namespace octavo
