#include <algorithm>

#include "kv/convert.h"
#include "kv/encode.cuh"
#include "kv/shape.h"

namespace octavo {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxBlocks = 4096;

int count_blocks(int64_t work) {
  return static_cast<int>(std::clamp<int64_t>((work + kThreads - 1) / kThreads, 1, kMaxBlocks));
}

// Calls body(i) for every i < n, over the whole grid.
template <class Body>
__device__ void for_each_index(int64_t n, Body body) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += stride) body(i);
}

struct ConvertParams {
  const void* from;
  void* to;
  int64_t n;
  float scale;
  int32_t kv_dtype;
  int32_t bytes;
};

__global__ void __launch_bounds__(kThreads) quantize_kernel(const __grid_constant__ ConvertParams p) {
  for_each_index(p.n, [&](int64_t i) {
    encode_element(p.kv_dtype, static_cast<const float*>(p.from)[i], p.scale,
                   static_cast<uint8_t*>(p.to) + i * p.bytes);
  });
}

__global__ void __launch_bounds__(kThreads) dequantize_kernel(const __grid_constant__ ConvertParams p) {
  for_each_index(p.n, [&](int64_t i) {
    static_cast<float*>(p.to)[i] =
        decode_element(p.kv_dtype, static_cast<const uint8_t*>(p.from) + i * p.bytes, p.scale);
  });
}

// One thread moves 8 bytes: row = (token, head, K or V), unit = which 8 bytes of it.
template <bool kPack>
__global__ void __launch_bounds__(kThreads) move_kernel(const __grid_constant__ MoveParams p) {
  const int units = p.kv.row_bytes / 8;
  const int64_t rows = static_cast<int64_t>(p.num_tokens) * p.kv.num_kv_heads * 2;
  for_each_index(rows * units, [&](int64_t i) {
    const int byte = static_cast<int>(i % units) * 8;
    const int64_t row = i / units;
    const bool is_value = (row & 1) != 0;
    const int head = static_cast<int>((row >> 1) % p.kv.num_kv_heads);
    const int64_t token = (row >> 1) / p.kv.num_kv_heads;
    const int64_t slot = p.slot_mapping[token];
    if (slot < 0 || slot >= p.num_slots) return;
    const int in_page = static_cast<int>(slot & ((1 << p.kv.page_shift) - 1));
    uint8_t* stored = p.pages + p.kv.granule_offset(static_cast<int32_t>(slot >> p.kv.page_shift), head, in_page) +
                      (is_value ? p.kv.granule_bytes / 2 : 0) + byte_offset(p.kv.row_bytes, in_page & 15, byte);
    uint8_t* plain = (is_value ? p.v : p.k) + (token * p.kv.num_kv_heads + head) * p.used_bytes + byte;
    const bool used = byte < p.used_bytes;
    if (kPack) {
      *reinterpret_cast<uint2*>(stored) = used ? *reinterpret_cast<const uint2*>(plain) : make_uint2(0, 0);
    } else if (used) {
      *reinterpret_cast<uint2*>(plain) = *reinterpret_cast<const uint2*>(stored);
    }
  });
}

int64_t count_moves(const MoveParams& p) {
  return static_cast<int64_t>(p.num_tokens) * p.kv.num_kv_heads * 2 * (p.kv.row_bytes / 8);
}

}  // namespace

void quantize_gpu(int kv_dtype, const float* x, int64_t n, float scale, uint8_t* stored, GpuStream stream) {
  gpu_launch(quantize_kernel, count_blocks(n), kThreads, 0, stream, false,
             ConvertParams{x, stored, n, scale, kv_dtype, kv_element_bytes(kv_dtype)});
}

void dequantize_gpu(int kv_dtype, const uint8_t* stored, int64_t n, float scale, float* x, GpuStream stream) {
  gpu_launch(dequantize_kernel, count_blocks(n), kThreads, 0, stream, false,
             ConvertParams{stored, x, n, scale, kv_dtype, kv_element_bytes(kv_dtype)});
}

void pack_gpu(const MoveParams& params, GpuStream stream) {
  gpu_launch(move_kernel<true>, count_blocks(count_moves(params)), kThreads, 0, stream, false, params);
}

void unpack_gpu(const MoveParams& params, GpuStream stream) {
  gpu_launch(move_kernel<false>, count_blocks(count_moves(params)), kThreads, 0, stream, false, params);
}

}  // namespace octavo
