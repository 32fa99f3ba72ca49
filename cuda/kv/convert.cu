#include <algorithm>

#include "kv/convert.h"
#include "kv/encode.cuh"
#include "kv/format.h"

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

// What is moved at a time: rows that scales follow are aligned to 4 bytes only.
using Unit = uint32_t;
constexpr int kUnitBytes = sizeof(Unit);

__host__ __device__ int units_of_row(const MoveParams& p) { return (p.kv.row_bytes + p.scales_bytes) / kUnitBytes; }

// One thread moves one unit: row = (token, head, K or V), codes up to the chunk's end, then scales.
template <bool kPack>
__global__ void __launch_bounds__(kThreads) move_kernel(const __grid_constant__ MoveParams p) {
  const int units = units_of_row(p);
  const int packed_bytes = p.codes_bytes + p.scales_bytes;
  const int64_t rows = static_cast<int64_t>(p.num_tokens) * p.kv.num_kv_heads * 2;
  for_each_index(rows * units, [&](int64_t i) {
    const int byte = static_cast<int>(i % units) * kUnitBytes;
    const int64_t row = i / units;
    const bool is_value = (row & 1) != 0;
    const int head = static_cast<int>((row >> 1) % p.kv.num_kv_heads);
    const int64_t token = (row >> 1) / p.kv.num_kv_heads;
    const int64_t slot = p.slot_mapping[token];
    if (slot < 0 || slot >= p.num_slots) return;
    const int in_page = static_cast<int>(slot & ((1 << p.kv.page_shift) - 1));
    const int scale_byte = byte - p.kv.row_bytes;  // below 0: a code's
    uint8_t* granule = p.pages + p.kv.granule_offset(static_cast<int32_t>(slot >> p.kv.page_shift), head, in_page);
    const int stored_at = scale_byte < 0
                              ? (is_value ? p.kv.value_at : 0) + byte_offset(p.kv.row_bytes, in_page & 15, byte)
                              : (is_value ? p.kv.value_scales_at : p.kv.key_scales_at) +
                                    (in_page & 15) * p.scales_bytes + scale_byte;
    const bool is_used = scale_byte >= 0 || byte < p.codes_bytes;
    const int plain_at = scale_byte < 0 ? byte : p.codes_bytes + scale_byte;
    Unit* stored = reinterpret_cast<Unit*>(granule + stored_at);
    Unit* plain = reinterpret_cast<Unit*>((is_value ? p.v : p.k) +
                                          (token * p.kv.num_kv_heads + head) * packed_bytes + plain_at);
    if (kPack) {
      *stored = is_used ? *plain : 0;
    } else if (is_used) {
      *plain = *stored;
    }
  });
}

int64_t count_moves(const MoveParams& p) {
  return static_cast<int64_t>(p.num_tokens) * p.kv.num_kv_heads * 2 * units_of_row(p);
}

}  // namespace

void quantize_gpu(int kv_dtype, const float* x, int64_t n, float scale, uint8_t* stored, GpuStream stream) {
  gpu_launch(quantize_kernel, count_blocks(n), kThreads, 0, stream, false,
             ConvertParams{x, stored, n, scale, kv_dtype, kv_format(kv_dtype).key.code_bytes});
}

void dequantize_gpu(int kv_dtype, const uint8_t* stored, int64_t n, float scale, float* x, GpuStream stream) {
  gpu_launch(dequantize_kernel, count_blocks(n), kThreads, 0, stream, false,
             ConvertParams{stored, x, n, scale, kv_dtype, kv_format(kv_dtype).key.code_bytes});
}

void pack_gpu(const MoveParams& params, GpuStream stream) {
  gpu_launch(move_kernel<true>, count_blocks(count_moves(params)), kThreads, 0, stream, false, params);
}

void unpack_gpu(const MoveParams& params, GpuStream stream) {
  gpu_launch(move_kernel<false>, count_blocks(count_moves(params)), kThreads, 0, stream, false, params);
}

}  // namespace octavo
