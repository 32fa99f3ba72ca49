// Bytes of two's complement to f16, exactly, two at a time. With their sign bits turned they read as 1024 + 128 + value
// under f16's exponent of 1024.
//
// What limits decode's steps here are the integer units, at half the rate of the others: byte 0 and 2 take one of their
// instructions, 1 and 3 a multiplication's upper half, which runs elsewhere, and one.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

namespace octavo {

// Bytes 0 and 2.
__device__ inline uint32_t int8_even_to_f16x2(uint32_t four) {
  uint32_t biased;
  asm("lop3.b32 %0, %1, %2, %3, 0x6A;" : "=r"(biased) : "r"(four), "r"(0x00FF00FFu), "r"(0x64806480u));  // (a & b) ^ c
  const __half2 value = __hsub2(*reinterpret_cast<const __half2*>(&biased), __half2half2(__ushort_as_half(0x6480)));
  return *reinterpret_cast<const uint32_t*>(&value);
}

// Bytes 1 and 3. The factor is 2^24 in a form that the compiler does not see through: it would make a shift of it.
__device__ inline uint32_t int8_odd_to_f16x2(uint32_t four) {
  uint32_t sm;
  asm("mov.u32 %0, %%smid;" : "=r"(sm));
  return int8_even_to_f16x2(__umulhi(four, 0x1000000u + (sm >> 24)));
}

}  // namespace octavo
