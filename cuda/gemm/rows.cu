#include "gemm/rows.h"

#include <algorithm>

#include "arch/ptx.cuh"
#include "gemm/activation.cuh"

namespace octavo {
namespace {

constexpr int kThreads = 256;

struct BiasParams {
  void* y;
  const float* bias;
  int64_t y_stride;
  int32_t y_dtype;
  int32_t rows;
  int32_t m;
};

struct NarrowParams {
  const float* x;
  void* y;
  int64_t count;
  int32_t dtype;
};

__device__ float read_element(const void* x, int dtype, int64_t i) {
  if (dtype == OCTAVO_F32) return static_cast<const float*>(x)[i];
  if (dtype == OCTAVO_BF16) return __bfloat162float(static_cast<const __nv_bfloat16*>(x)[i]);
  return __half2float(static_cast<const __half*>(x)[i]);
}

__device__ void write_element(void* y, int dtype, int64_t i, float value) {
  if (dtype == OCTAVO_F32)
    static_cast<float*>(y)[i] = value;
  else if (dtype == OCTAVO_BF16)
    static_cast<__nv_bfloat16*>(y)[i] = __float2bfloat16_rn(value);
  else
    static_cast<__half*>(y)[i] = __float2half_rn(value);
}

__device__ int64_t first_element() { return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; }
__device__ int64_t element_step() { return static_cast<int64_t>(gridDim.x) * kThreads; }

__global__ void __launch_bounds__(kThreads) bias_kernel(const __grid_constant__ BiasParams p) {
  gpu_wait_for_predecessor();
  gpu_release_successor();
  const int64_t count = static_cast<int64_t>(p.m) * p.rows;
  for (int64_t i = first_element(); i < count; i += element_step()) {
    const int64_t token = i / p.rows;
    const int64_t at = token * p.y_stride + (i - token * p.rows);
    write_element(p.y, p.y_dtype, at, read_element(p.y, p.y_dtype, at) + p.bias[i - token * p.rows]);
  }
}

__global__ void __launch_bounds__(kThreads) narrow_kernel(const __grid_constant__ NarrowParams p) {
  gpu_wait_for_predecessor();
  gpu_release_successor();
  for (int64_t i = first_element(); i < p.count; i += element_step()) write_element(p.y, p.dtype, i, p.x[i]);
}

// Eight 16-bit elements as f32.
__device__ void read_eight(const void* x, int dtype, int64_t at, float (&out)[8]) {
  const uint4 raw = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(x) + at);
  const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float2 pair;
    if (dtype == OCTAVO_BF16)
      pair = make_float2(__uint_as_float(words[i] << 16), __uint_as_float(words[i] & 0xFFFF0000u));
    else
      pair = __half22float2(*reinterpret_cast<const __half2*>(&words[i]));
    out[2 * i] = pair.x;
    out[2 * i + 1] = pair.y;
  }
}

__global__ void __launch_bounds__(kThreads) gate_kernel(const __grid_constant__ GateRows p) {
  gpu_wait_for_predecessor();
  gpu_release_successor();
  const int eights = p.half / 8;
  const int64_t count = static_cast<int64_t>(p.m) * eights;
  for (int64_t i = first_element(); i < count; i += element_step()) {
    const int64_t token = i / eights;
    const int column = static_cast<int>(i - token * eights) * 8;
    float gate[8];
    float up[8];
    read_eight(p.product, p.product_dtype, token * 2 * p.half + column, gate);
    read_eight(p.product, p.product_dtype, token * 2 * p.half + p.half + column, up);
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      if (p.bias != nullptr) {
        gate[k] += p.bias[column + k];
        up[k] += p.bias[p.half + column + k];
      }
      gate[k] = activate(gate[k], p.epilogue) * up[k];
    }
    const int64_t at = token * p.y_stride + column;
    if (p.y_dtype == OCTAVO_F32) {
#pragma unroll
      for (int k = 0; k < 8; ++k) static_cast<float*>(p.y)[at + k] = gate[k];
    } else {
      uint32_t packed[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        packed[k] = p.y_dtype == OCTAVO_BF16 ? pack_bf16x2(gate[2 * k], gate[2 * k + 1])
                                             : pack_f16x2(gate[2 * k], gate[2 * k + 1]);
      }
      *reinterpret_cast<uint4*>(static_cast<uint16_t*>(p.y) + at) =
          make_uint4(packed[0], packed[1], packed[2], packed[3]);
    }
  }
}

// Blocks for `count` threads' worth of work, at most eight a multiprocessor.
int blocks_for(int64_t count) {
  return static_cast<int>(std::clamp<int64_t>((count + kThreads - 1) / kThreads, 1, int64_t{8} * gpu_device().num_sms));
}

}  // namespace

void add_bias(void* y, int32_t y_dtype, int64_t y_stride, const float* bias, int32_t rows, int32_t m, GpuStream stream,
              bool overlap) {
  gpu_launch(bias_kernel, blocks_for(int64_t{m} * rows), kThreads, 0, stream, overlap,
             BiasParams{y, bias, y_stride, y_dtype, rows, m});
}

void gate_rows(const GateRows& rows, GpuStream stream, bool overlap) {
  gpu_launch(gate_kernel, blocks_for(int64_t{rows.m} * (rows.half / 8)), kThreads, 0, stream, overlap, rows);
}

void narrow_rows(const float* x, void* y, int32_t dtype, int64_t count, GpuStream stream) {
  gpu_launch(narrow_kernel, blocks_for(count), kThreads, 0, stream, false, NarrowParams{x, y, count, dtype});
}

}  // namespace octavo
