// f32 to the stored formats on the GPU: one rounding to nearest even, saturating; NaN stays NaN (its sign and payload
// may change). The CPU's kv/quantize.h gives the same bytes for every number.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "octavo.h"

namespace octavo {

__device__ inline float saturate(float x, float largest) { return fabsf(x) > largest ? copysignf(largest, x) : x; }

__device__ inline uint16_t encode_f16(float x) { return __half_as_ushort(__float2half_rn(saturate(x, 65504.0f))); }

__device__ inline uint16_t encode_bf16(float x) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(saturate(x, __uint_as_float(0x7F7F0000u))));
}

__device__ inline uint8_t encode_fp8(int kv_dtype, float x) {
  return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, kv_dtype == OCTAVO_KV_FP8_E4M3 ? __NV_E4M3 : __NV_E5M2);
}

// Two neighbours.
__device__ inline uint16_t encode_fp8x2(int kv_dtype, float low, float high) {
  return __nv_cvt_float2_to_fp8x2(make_float2(low, high), __NV_SATFINITE,
                                  kv_dtype == OCTAVO_KV_FP8_E4M3 ? __NV_E4M3 : __NV_E5M2);
}

__device__ inline float decode_fp8(int kv_dtype, uint8_t code) {
  const __half_raw half = __nv_cvt_fp8_to_halfraw(code, kv_dtype == OCTAVO_KV_FP8_E4M3 ? __NV_E4M3 : __NV_E5M2);
  return __half2float(__half(half));
}

// Nearest integer of -127 .. 127; NaN gives -127.
__device__ inline uint8_t encode_int8(float x) {
  const float low = x > -127.0f ? x : -127.0f;
  return static_cast<uint8_t>(__float2int_rn(low < 127.0f ? low : 127.0f));
}

// value + 8 for -7 .. 7; NaN gives -7.
__device__ inline uint32_t encode_int4(float x) {
  const float low = x > -7.0f ? x : -7.0f;
  return static_cast<uint32_t>(__float2int_rn(low < 7.0f ? low : 7.0f) + 8);
}

// Writes x / scale as one element; code as quantize() of kv/quantize.h takes it, but for
// INT4, whose elements share bytes.
__device__ inline void encode_element(int code, float x, float scale, uint8_t* target) {
  const float y = __fdiv_rn(x, scale);
  switch (code) {
    case OCTAVO_KV_FLOAT32:
      *reinterpret_cast<float*>(target) = y;
      return;
    case OCTAVO_KV_FLOAT16:
      *reinterpret_cast<uint16_t*>(target) = encode_f16(y);
      return;
    case OCTAVO_KV_BFLOAT16:
      *reinterpret_cast<uint16_t*>(target) = encode_bf16(y);
      return;
    case OCTAVO_KV_INT8:
      *target = encode_int8(y);
      return;
    default:
      *target = encode_fp8(code, y);
  }
}

// What encode_element wrote.
__device__ inline float decode_element(int code, const uint8_t* source, float scale) {
  switch (code) {
    case OCTAVO_KV_FLOAT32:
      return *reinterpret_cast<const float*>(source) * scale;
    case OCTAVO_KV_FLOAT16:
      return __half2float(*reinterpret_cast<const __half*>(source)) * scale;
    case OCTAVO_KV_BFLOAT16:
      return __bfloat162float(*reinterpret_cast<const __nv_bfloat16*>(source)) * scale;
    case OCTAVO_KV_INT8:
      return static_cast<float>(static_cast<int8_t>(*source)) * scale;
    default:
      return decode_fp8(code, *source) * scale;
  }
}

}  // namespace octavo
