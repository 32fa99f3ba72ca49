// What kernels that give a row to a block share: sums and maxima over the block, elements of the compute types, and E4M3
// with a scale a row.
#pragma once

#include <cuda_fp8.h>

#include "arch/ptx.cuh"
#include "octavo.h"

namespace octavo {

constexpr int kRowWarp = 32;
constexpr float kLargestE4m3 = 448;

// The sum over the block, in an order that depends on its size alone.
__device__ inline float block_sum(float value) {
  __shared__ float warp_sums[kRowWarp];
  const int lane = threadIdx.x % kRowWarp;
  const int num_warps = blockDim.x / kRowWarp;
#pragma unroll
  for (int offset = kRowWarp / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  __syncthreads();  // the sums of the call before have been read
  if (lane == 0) warp_sums[threadIdx.x / kRowWarp] = value;
  __syncthreads();
  value = lane < num_warps ? warp_sums[lane] : 0;
#pragma unroll
  for (int offset = kRowWarp / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  return value;
}

// The largest value of the block, NaN left out. What the threads wrote to shared memory before is seen after.
__device__ inline float block_max(float value) {
  __shared__ float warp_values[kRowWarp];
#pragma unroll
  for (int offset = kRowWarp / 2; offset > 0; offset /= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, offset));
  if (threadIdx.x % kRowWarp == 0) warp_values[threadIdx.x / kRowWarp] = value;
  __syncthreads();
  for (int warp = 0; warp < static_cast<int>(blockDim.x) / kRowWarp; ++warp) value = fmaxf(value, warp_values[warp]);
  return value;
}

__device__ inline float largest_of(float4 x) {
  return fmaxf(fmaxf(fabsf(x.x), fabsf(x.y)), fmaxf(fabsf(x.z), fabsf(x.w)));
}

// Four elements of OCTAVO_BF16 or OCTAVO_F16.
__device__ inline uint2 pack_compute(float4 x, int dtype) {
  if (dtype == OCTAVO_BF16) return make_uint2(pack_bf16x2(x.x, x.y), pack_bf16x2(x.z, x.w));
  return make_uint2(pack_f16x2(x.x, x.y), pack_f16x2(x.z, x.w));
}

__device__ inline float4 unpack_compute(uint2 bits, int dtype) {
  float2 low, high;
  if (dtype == OCTAVO_BF16) {
    low = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&bits.x));
    high = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&bits.y));
  } else {
    low = __half22float2(*reinterpret_cast<const __half2*>(&bits.x));
    high = __half22float2(*reinterpret_cast<const __half2*>(&bits.y));
  }
  return make_float4(low.x, low.y, high.x, high.y);
}

// The scale of a row in E4M3: stored = x / scale, the largest |x| becomes 448.
__device__ inline float e4m3_scale(float largest) { return largest > 0 ? largest / kLargestE4m3 : 1.0f; }

__device__ inline uint32_t pack_e4m3(float4 x, float scale) {
  return __nv_fp8x4_e4m3(make_float4(x.x / scale, x.y / scale, x.z / scale, x.w / scale)).__x;
}

}  // namespace octavo
