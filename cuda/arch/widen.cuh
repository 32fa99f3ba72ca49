// E4M3 widened in registers, two at a time.
#pragma once

#include "arch/ptx.cuh"
#include "octavo.h"

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

}  // namespace octavo
