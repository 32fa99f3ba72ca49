#include "gemm/rows.h"

#include <algorithm>

#include "arch/block_rows.cuh"
#include "arch/host_device.h"
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

OCTAVO_HOST_DEVICE int gate_blocks(int half) { return (half / 8 + kThreads - 1) / kThreads; }

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

// Eight columns of a row's activation.
__device__ void gate_eight(const GateRows& p, int64_t token, int column, float (&gate)[8]) {
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
}

__device__ uint4 pack_eight(const float (&x)[8], int dtype) {
  const uint2 low = pack_compute(make_float4(x[0], x[1], x[2], x[3]), dtype);
  const uint2 high = pack_compute(make_float4(x[4], x[5], x[6], x[7]), dtype);
  return make_uint4(low.x, low.y, high.x, high.y);
}

// A thread eight columns of one row; row r's blocks are r x blocks_per_row and those that follow.
__global__ void __launch_bounds__(kThreads) gate_kernel(const __grid_constant__ GateRows p) {
  gpu_wait_for_predecessor();
  gpu_release_successor();
  const int blocks_per_row = gate_blocks(p.half);
  const int64_t token = static_cast<int>(blockIdx.x) / blocks_per_row;
  const int column = ((static_cast<int>(blockIdx.x) - static_cast<int>(token) * blocks_per_row) * kThreads +
                      static_cast<int>(threadIdx.x)) * 8;
  if (column >= p.half) return;
  float value[8];
  gate_eight(p, token, column, value);
  const int64_t at = token * p.y_stride + column;
  if (p.y_dtype == OCTAVO_F32) {
#pragma unroll
    for (int k = 0; k < 8; ++k) static_cast<float*>(p.y)[at + k] = value[k];
  } else {
    *reinterpret_cast<uint4*>(static_cast<uint16_t*>(p.y) + at) = pack_eight(value, p.y_dtype);
  }
}

// A block a row, which waits in shared memory for its scale.
__global__ void __launch_bounds__(kThreads) gate_e4m3_kernel(const __grid_constant__ GateRows p) {
  extern __shared__ uint4 row_eights[];
  gpu_wait_for_predecessor();
  gpu_release_successor();
  const int64_t token = blockIdx.x;
  float largest = 0;
  for (int i = threadIdx.x; i < p.half / 8; i += kThreads) {
    float value[8];
    gate_eight(p, token, i * 8, value);
    const uint4 packed = pack_eight(value, p.y_dtype);
    row_eights[i] = packed;
    largest = fmaxf(largest, fmaxf(largest_of(unpack_compute(make_uint2(packed.x, packed.y), p.y_dtype)),
                                   largest_of(unpack_compute(make_uint2(packed.z, packed.w), p.y_dtype))));
  }
  const float scale = e4m3_scale(block_max(largest));
  if (threadIdx.x == 0) p.y_scales[token] = scale;
  uint8_t* y = static_cast<uint8_t*>(p.y) + token * p.y_stride;
  for (int i = threadIdx.x; i < p.half / 8; i += kThreads) {
    const uint4 packed = row_eights[i];
    *reinterpret_cast<uint2*>(y + i * 8) =
        make_uint2(pack_e4m3(unpack_compute(make_uint2(packed.x, packed.y), p.y_dtype), scale),
                   pack_e4m3(unpack_compute(make_uint2(packed.z, packed.w), p.y_dtype), scale));
  }
}

// A block a row. The row is read twice, the second time from the cache.
__global__ void __launch_bounds__(kThreads) quantize_kernel(const __grid_constant__ QuantizeRowsParams p) {
  gpu_wait_for_predecessor();
  gpu_release_successor();
  const int64_t row = blockIdx.x;
  const uint16_t* x = static_cast<const uint16_t*>(p.x) + row * p.columns;
  const auto load = [&](int column) {
    return unpack_compute(*reinterpret_cast<const uint2*>(x + column), p.compute_dtype);
  };
  float largest = 0;
  for (int column = 4 * threadIdx.x; column < p.columns; column += 4 * kThreads) {
    largest = fmaxf(largest, largest_of(load(column)));
  }
  const float scale = e4m3_scale(block_max(largest));
  if (threadIdx.x == 0) p.scales[row] = scale;
  for (int column = 4 * threadIdx.x; column < p.columns; column += 4 * kThreads) {
    *reinterpret_cast<uint32_t*>(p.values + row * p.columns + column) = pack_e4m3(load(column), scale);
  }
}

struct NoiseParams {
  uint32_t* words;
  int64_t count;
};

// Bytes 0x30 to 0x3F and their negatives at random: below 2 in size in E4M3, BF16 and F16.
__global__ void __launch_bounds__(kThreads) noise_kernel(const __grid_constant__ NoiseParams p) {
  for (int64_t i = first_element(); i < p.count; i += element_step()) {
    uint32_t x = static_cast<uint32_t>(i) * 0x9E3779B9u + 0x7F4A7C15u;
    x = (x ^ (x >> 16)) * 0x85EBCA6Bu;
    x = (x ^ (x >> 13)) * 0xC2B2AE35u;
    p.words[i] = (x & 0x8F8F8F8Fu) | 0x30303030u;
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
  if (rows.y_scales != nullptr) {
    return gpu_launch(gate_e4m3_kernel, rows.m, kThreads, rows.half * 2, stream, overlap, rows);
  }
  gpu_launch(gate_kernel, rows.m * gate_blocks(rows.half), kThreads, 0, stream, overlap, rows);
}

void quantize_rows(const QuantizeRowsParams& params, GpuStream stream, bool overlap) {
  if (params.num_rows > 0) gpu_launch(quantize_kernel, params.num_rows, kThreads, 0, stream, overlap, params);
}

void fill_noise(void* data, size_t bytes, GpuStream stream) {
  const int64_t words = static_cast<int64_t>(bytes / 4);
  gpu_launch(noise_kernel, blocks_for(words), kThreads, 0, stream, false, NoiseParams{static_cast<uint32_t*>(data), words});
}

void narrow_rows(const float* x, void* y, int32_t dtype, int64_t count, GpuStream stream) {
  gpu_launch(narrow_kernel, blocks_for(count), kThreads, 0, stream, false, NarrowParams{x, y, count, dtype});
}

}  // namespace octavo
