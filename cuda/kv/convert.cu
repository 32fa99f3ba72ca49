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

template <class Unit>
__host__ __device__ int units_of(const MovePart& part) {
  return (part.row_bytes + part.num_scales * part.scale_bytes) / static_cast<int>(sizeof(Unit));
}

template <class Unit>
__host__ __device__ int64_t work_of(const MoveParams& p, const MovePart& part) {
  return static_cast<int64_t>(p.num_tokens) * p.kv.num_kv_heads * units_of<Unit>(part);
}

// One thread moves one unit of K's rows, then V's: codes up to the chunk's end, then scales.
template <bool kPack, class Unit>
__global__ void __launch_bounds__(kThreads) move_kernel(const __grid_constant__ MoveParams p) {
  const int64_t key_work = work_of<Unit>(p, p.key);
  for_each_index(key_work + work_of<Unit>(p, p.value), [&](int64_t at) {
    const bool is_value = at >= key_work;
    const MovePart& part = is_value ? p.value : p.key;
    const int64_t i = is_value ? at - key_work : at;
    const int units = units_of<Unit>(part);
    const int byte = static_cast<int>(i % units) * static_cast<int>(sizeof(Unit));
    const int64_t row = i / units;  // (token, head)
    const int head = static_cast<int>(row % p.kv.num_kv_heads);
    const int64_t slot = p.slot_mapping[row / p.kv.num_kv_heads];
    if (slot < 0 || slot >= p.num_slots) return;
    const int in_page = static_cast<int>(slot & ((1 << p.kv.page_shift) - 1));
    const int token = in_page & 15;
    const int in_scales = byte - part.row_bytes;  // below 0: among the codes
    const bool is_used = in_scales >= 0 || byte < part.codes_bytes;
    const int scale = in_scales < 0 ? 0 : in_scales / part.scale_bytes;
    const int in_granule = in_scales < 0 ? part.codes_at + byte_offset(part.row_bytes, token, byte)
                                         : part.scales_at + (scale * kGranuleTokens + token) * part.scale_bytes +
                                               in_scales % part.scale_bytes;
    const int in_row = in_scales < 0 ? byte : part.codes_bytes + in_scales;
    uint8_t* granule = p.pages + p.kv.granule_offset(static_cast<int32_t>(slot >> p.kv.page_shift), head, in_page);
    Unit* stored = reinterpret_cast<Unit*>(granule + in_granule);
    const int packed_bytes = part.codes_bytes + part.num_scales * part.scale_bytes;
    Unit* plain = reinterpret_cast<Unit*>((is_value ? p.v : p.k) + row * packed_bytes + in_row);
    if (kPack) {
      *stored = is_used ? *plain : Unit{};
    } else if (is_used) {
      *plain = *stored;
    }
  });
}

template <bool kPack, class Unit>
void launch_move(const MoveParams& p, GpuStream stream) {
  const int64_t work = work_of<Unit>(p, p.key) + work_of<Unit>(p, p.value);
  gpu_launch(move_kernel<kPack, Unit>, count_blocks(work), kThreads, 0, stream, false, p);
}

// Scales leave rows aligned to 2 bytes only.
template <bool kPack>
void move_rows(const MoveParams& p, GpuStream stream) {
  if (p.key.num_scales == 0)
    launch_move<kPack, uint2>(p, stream);
  else
    launch_move<kPack, uint16_t>(p, stream);
}

}  // namespace

void quantize_gpu(int kv_dtype, const float* x, int64_t n, float scale, uint8_t* stored, GpuStream stream) {
  gpu_launch(quantize_kernel, count_blocks(n), kThreads, 0, stream, false,
             ConvertParams{x, stored, n, scale, kv_dtype, kv_format(kv_dtype).key.code_bits / 8});
}

void dequantize_gpu(int kv_dtype, const uint8_t* stored, int64_t n, float scale, float* x, GpuStream stream) {
  gpu_launch(dequantize_kernel, count_blocks(n), kThreads, 0, stream, false,
             ConvertParams{stored, x, n, scale, kv_dtype, kv_format(kv_dtype).key.code_bits / 8});
}

void pack_gpu(const MoveParams& params, GpuStream stream) { move_rows<true>(params, stream); }

void unpack_gpu(const MoveParams& params, GpuStream stream) { move_rows<false>(params, stream); }

}  // namespace octavo
