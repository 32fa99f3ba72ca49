#include <cfloat>

#include "arch/ptx.cuh"
#include "kv/append.h"
#include "kv/append_plain.cuh"
#include "kv/encode.cuh"
#include "kv/rotation.cuh"
#include "kv/stats_rules.h"

namespace octavo {
namespace {

constexpr int kWarps = 4;
constexpr int kMaxHeadDim = 256;
constexpr int kPairs = 4;  // pairs of dims a lane holds: head_dim 256 has 128 pairs

__device__ float read_input(const void* x, int dtype, int64_t index) {
  if (dtype == OCTAVO_BF16) return __bfloat162float(static_cast<const __nv_bfloat16*>(x)[index]);
  if (dtype == OCTAVO_F16) return __half2float(static_cast<const __half*>(x)[index]);
  return static_cast<const float*>(x)[index];
}

__device__ void write_query(void* out, int dtype, int64_t index, float value) {
  if (dtype == OCTAVO_BF16)
    static_cast<__nv_bfloat16*>(out)[index] = __float2bfloat16_rn(value);
  else if (dtype == OCTAVO_F16)
    static_cast<__half*>(out)[index] = __float2half_rn(value);
  else
    static_cast<float*>(out)[index] = value;
}

// One head of one token, a warp's: lane holds pairs (i, i + head_dim/2) for i = lane, lane + 32, ..
struct Head {
  float low[kPairs];
  float high[kPairs];
};

__device__ Head read_head(const void* x, int dtype, int64_t at, int half) {
  Head head = {};
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const int i = (threadIdx.x & 31) + 32 * j;
    if (i >= half) continue;
    head.low[j] = read_input(x, dtype, at + i);
    head.high[j] = read_input(x, dtype, at + half + i);
  }
  return head;
}

// Puts the head's dims in order into this warp's shared memory.
__device__ void order_dims(const Head& head, int half, float (&row)[kMaxHeadDim]) {
  __syncwarp();  // what was in it has been read
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const int i = (threadIdx.x & 31) + 32 * j;
    if (i >= half) continue;
    row[i] = head.low[j];
    row[half + i] = head.high[j];
  }
  __syncwarp();
}

// The squares are added in the order of append_plain_kernel, whose lanes hold eight dims.
__device__ void normalise(Head& head, const AppendParams& p, const float* weights, float (&row)[kMaxHeadDim]) {
  const int half = p.head_dim / 2;
  const int first = 4 * static_cast<int>(threadIdx.x & 31);
  order_dims(head, half, row);
  float squares = first < half ? sum_squares(load_four(row + first), load_four(row + half + first)) : 0.0f;
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) squares += __shfl_xor_sync(~0u, squares, offset);
  const float factor = 1.0f / sqrtf(squares / static_cast<float>(p.head_dim) + p.norm_eps);
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const int i = (threadIdx.x & 31) + 32 * j;
    if (i >= half) continue;
    head.low[j] *= factor * (weights[i] + p.norm_offset);
    head.high[j] *= factor * (weights[half + i] + p.norm_offset);
  }
}

__device__ void rotate(Head& head, const AppendParams& p, int64_t token) {
  const int half = p.head_dim / 2;
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const int i = (threadIdx.x & 31) + 32 * j;
    if (i >= half) continue;
    const float cosine = p.cosines[token * half + i];
    const float sine = p.sines[token * half + i];
    const float low = head.low[j];
    head.low[j] = rotate_low(low, head.high[j], cosine, sine);
    head.high[j] = rotate_high(low, head.high[j], cosine, sine);
  }
}

// The granule of a token's slot.
__device__ uint8_t* granule_of(const AppendParams& p, int64_t slot, int in_page, int kv_head) {
  return p.pages + p.kv.granule_offset(static_cast<int32_t>(slot >> p.kv.page_shift), kv_head, in_page);
}

// What this lane finds of its warp's head for KvStatsRow. Without kCounts there is nothing of it in the kernel.
template <bool kCounts>
struct Tally {
  bool is_sampled = false;
  float squares = 0;
  float errors = 0;

  // x was stored; read() gives what attention sees of it.
  template <class Read>
  __device__ void add(float x, Read read) {
    if constexpr (kCounts) {
      if (!is_sampled) return;
      const float error = read() - x;
      if (!isfinite(error)) return;
      squares += x * x;
      errors += error * error;
    }
  }

  __device__ void add_to(KvStatsRow& row) const {
    if (!is_sampled) return;
    float sums[2] = {squares, errors};
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      sums[0] += __shfl_xor_sync(~0u, sums[0], offset);
      sums[1] += __shfl_xor_sync(~0u, sums[1], offset);
    }
    if ((threadIdx.x & 31) != 0) return;
    atomicAdd(&row.square_sum, static_cast<double>(sums[0]));
    atomicAdd(&row.error_sum, static_cast<double>(sums[1]));
  }
};

// The head's largest magnitude and how many lie beyond limit. Most heads change neither count: no atomic then.
__device__ void count_magnitudes(const Head& head, int half, float limit, KvStatsRow& row) {
  constexpr uint32_t kInfinity = 0x7F800000u;  // magnitudes compare as their bits do; those of NaN lie above
  const uint32_t limit_bits = __float_as_uint(limit);
  uint32_t largest = 0;
  uint32_t num_saturated = 0;
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    if (static_cast<int>(threadIdx.x & 31) + 32 * j >= half) continue;
    for (const float x : {head.low[j], head.high[j]}) {
      const uint32_t bits = __float_as_uint(x) & 0x7FFFFFFFu;
      if (bits > kInfinity) continue;
      largest = max(largest, bits);
      num_saturated += bits > limit_bits ? 1 : 0;
    }
  }
  largest = __reduce_max_sync(~0u, largest);
  num_saturated = __reduce_add_sync(~0u, num_saturated);
  if ((threadIdx.x & 31) != 0) return;
  if (largest > *const_cast<volatile uint64_t*>(&row.absmax_bits)) {
    atomicMax(reinterpret_cast<unsigned long long*>(&row.absmax_bits), static_cast<unsigned long long>(largest));
  }
  if (num_saturated > 0) atomicAdd(&row.num_saturated, static_cast<unsigned long long>(num_saturated));
}

// The scale of values in a format with scales of its own, of which this lane holds x[first] to x[end - 1].
template <int kSlots>
__device__ float own_scale(int code, const float (&x)[kSlots], int first, int end) {
  constexpr uint32_t kInfinity = 0x7F800000u;  // magnitudes compare as their bits do; those of NaN lie above
  const bool keeps_nan = code == OCTAVO_KV_FP8_E4M3;
  uint32_t largest = 0;
#pragma unroll
  for (int j = 0; j < kSlots; ++j) {
    const uint32_t magnitude = __float_as_uint(x[j]) & 0x7FFFFFFFu;
    if (j >= first && j < end && !(keeps_nan && magnitude > kInfinity)) largest = max(largest, magnitude);
  }
  largest = __reduce_max_sync(~0u, largest);
  if (largest > kInfinity) return __uint_as_float(0x7FC00000u);
  float scale = __fdiv_rn(fminf(__uint_as_float(largest), FLT_MAX), largest_code(code));
  if (code == OCTAVO_KV_INT4) scale = __half2float(__ushort_as_half(encode_f16(scale)));
  return scale > 0 ? scale : 1.0f;
}

// Codes of 8 bits with one scale a row.
template <int kSlots, bool kCounts>
__device__ void store_row(const AppendParams& p, int code, const float (&x)[kSlots], int token, uint8_t* codes,
                          uint8_t* scales, Tally<kCounts>& tally) {
  const int lane = static_cast<int>(threadIdx.x & 31);
  const float scale = own_scale(code, x, 0, kSlots);
  const int row_bytes = round_up_to_chunk(p.head_dim);
#pragma unroll
  for (int j = 0; j < kSlots; ++j) {
    const int dim = lane + 32 * j;
    if (dim >= row_bytes) continue;
    uint8_t* target = codes + byte_offset(row_bytes, token, dim);
    if (dim < p.head_dim) {
      encode_element(code, x[j], scale, target);
      tally.add(x[j], [&] { return decode_element(code, target, scale); });
    } else {
      *target = 0;
    }
  }
  if (lane == 0) reinterpret_cast<float*>(scales)[token] = scale;
}

// Codes of 4 bits: x[j] over the warp is a group. Even lanes write their own code and their neighbour's.
template <int kSlots, bool kCounts>
__device__ void store_groups(const AppendParams& p, const float (&x)[kSlots], int token, uint8_t* codes,
                             uint8_t* scales, Tally<kCounts>& tally) {
  const int lane = static_cast<int>(threadIdx.x & 31);
  const int row_bytes = round_up_to_chunk(p.head_dim / 2);
#pragma unroll
  for (int j = 0; j < kSlots; ++j) {
    if (j * kGroupDims >= p.head_dim) break;
    const float scale = own_scale(OCTAVO_KV_INT4, x, j, j + 1);
    const uint32_t own = encode_int4(__fdiv_rn(x[j], scale));
    tally.add(x[j], [&] { return static_cast<float>(static_cast<int>(own) - 8) * scale; });
    const uint32_t next = __shfl_down_sync(~0u, own, 1);
    if (lane % 2 == 0) {
      codes[byte_offset(row_bytes, token, (j * kGroupDims + lane) / 2)] = static_cast<uint8_t>(own | next << 4);
    }
    if (lane == 0) reinterpret_cast<uint16_t*>(scales)[j * kGranuleTokens + token] = encode_f16(scale);
  }
}

// Formats with scales of their own. row: this warp's shared memory, where the head's dims are put in order.
template <bool kCounts>
__device__ void store_scaled_head(const Head& head, const AppendParams& p, int64_t slot, int kv_head, bool is_value,
                                  float (&row)[kMaxHeadDim], Tally<kCounts>& tally) {
  const int lane = static_cast<int>(threadIdx.x & 31);
  order_dims(head, p.head_dim / 2, row);
  float x[kMaxHeadDim / 32];
#pragma unroll
  for (int j = 0; j < kMaxHeadDim / 32; ++j) x[j] = lane + 32 * j < p.head_dim ? row[lane + 32 * j] : 0.0f;
  const KvFormat format = kv_format(p.kv_dtype);
  if (p.k_mean != nullptr && !is_value) {
#pragma unroll
    for (int j = 0; j < kMaxHeadDim / 32; ++j) {
      const int dim = lane + 32 * j;
      if (dim < p.head_dim) x[j] -= p.k_mean[kv_head * p.head_dim + dim];
    }
  }
  if (format.is_rotated) rotate_dims(x, p.head_dim);
  const KvRowFormat& row_format = is_value ? format.value : format.key;
  const int in_page = static_cast<int>(slot & ((1 << p.kv.page_shift) - 1));
  uint8_t* granule = granule_of(p, slot, in_page, kv_head);
  uint8_t* codes = granule + (is_value ? p.kv.value_at : 0);
  uint8_t* scales = granule + (is_value ? p.kv.value_scales_at : p.kv.key_scales_at);
  if (row_format.scales == KvScales::kRow)
    store_row(p, row_format.code, x, in_page & 15, codes, scales, tally);
  else
    store_groups(p, x, in_page & 15, codes, scales, tally);
}

__device__ float scale_of(const AppendParams& p, int kv_head, bool is_value) {
  return p.scales == nullptr ? 1.0f : p.scales[(is_value ? p.kv.num_kv_heads : 0) + kv_head];
}

template <bool kCounts>
__device__ void store_head(const Head& head, const AppendParams& p, int64_t slot, int kv_head, bool is_value,
                           Tally<kCounts>& tally) {
  const int in_page = static_cast<int>(slot & ((1 << p.kv.page_shift) - 1));
  uint8_t* part = granule_of(p, slot, in_page, kv_head) + (is_value ? p.kv.value_at : 0);
  const float scale = scale_of(p, kv_head, is_value);
  const int bytes = kv_format(p.kv_dtype).key.code_bits / 8;
  const int half = p.head_dim / 2;
  const auto store = [&](int dim, float x) {
    uint8_t* target = part + byte_offset(p.kv.row_bytes, in_page & 15, dim * bytes);
    encode_element(p.kv_dtype, x, scale, target);
    tally.add(x, [&] { return decode_element(p.kv_dtype, target, scale); });
  };
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const int i = (threadIdx.x & 31) + 32 * j;
    if (i >= half) continue;
    store(i, head.low[j]);
    store(half + i, head.high[j]);
  }
  // Bytes past head_dim, up to a chunk's end, are stored as 0.
  const int pad = p.head_dim * bytes + static_cast<int>(threadIdx.x & 31);
  if (pad < p.kv.row_bytes) part[byte_offset(p.kv.row_bytes, in_page & 15, pad)] = 0;
}

// A warp takes one (token, head); heads: q heads, then K's, then V's.
template <bool kCounts>
__global__ void __launch_bounds__(kWarps * 32) append_kernel(const __grid_constant__ AppendParams p) {
  __shared__ __align__(16) float rows[kWarps][kMaxHeadDim];
  gpu_wait_for_predecessor();
  gpu_release_successor();
  const int q_heads = p.q != nullptr ? p.num_q_heads : 0;
  const int heads = q_heads + 2 * p.kv.num_kv_heads;
  const int64_t task = static_cast<int64_t>(blockIdx.x) * kWarps + (threadIdx.x >> 5);
  const int64_t token = task / heads;
  const int head_index = static_cast<int>(task % heads);
  if (token >= p.num_tokens) return;
  const int half = p.head_dim / 2;
  const bool is_query = head_index < q_heads;
  const bool is_value = head_index >= q_heads + p.kv.num_kv_heads;
  const int head_of_kind = is_query ? head_index : (head_index - q_heads) % p.kv.num_kv_heads;
  const void* source = is_query ? p.q : is_value ? p.v : p.k;
  const int64_t stride = is_query ? p.q_stride : is_value ? p.v_stride : p.k_stride;
  Head head = read_head(source, p.in_dtype, token * stride + static_cast<int64_t>(head_of_kind) * p.head_dim, half);
  if (!is_value) {
    const float* weights = is_query ? p.q_norm : p.k_norm;
    if (weights != nullptr) normalise(head, p, weights, rows[threadIdx.x >> 5]);
    if (p.cosines != nullptr) rotate(head, p, token);
  }
  if (!is_query) {
    const int64_t slot = p.slot_mapping[token];
    if (slot < 0 || slot >= p.num_slots) return;
    Tally<kCounts> tally;
    if constexpr (kCounts) tally.is_sampled = is_sampled_slot(static_cast<int32_t>(slot));
    const bool scales_itself = has_own_scales(p.kv_dtype);
    if (scales_itself)
      store_scaled_head(head, p, slot, head_of_kind, is_value, rows[threadIdx.x >> 5], tally);
    else
      store_head(head, p, slot, head_of_kind, is_value, tally);
    if constexpr (kCounts) {
      KvStatsRow& row = p.stats[(is_value ? p.kv.num_kv_heads : 0) + head_of_kind];
      const float scale = scales_itself ? 1.0f : scale_of(p, head_of_kind, is_value);
      count_magnitudes(head, half, saturation_limit(p.kv_dtype) * scale, row);
      tally.add_to(row);
    }
    return;
  }
  const int64_t at = (token * p.num_q_heads + head_of_kind) * p.head_dim;
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const int i = (threadIdx.x & 31) + 32 * j;
    if (i >= half) continue;
    write_query(p.q_out, p.q_out_dtype, at + i, head.low[j]);
    write_query(p.q_out, p.q_out_dtype, at + half + i, head.high[j]);
  }
}

}  // namespace

void append_gpu(const AppendParams& params, GpuStream stream, bool overlap) {
  const int64_t heads =
      (params.q != nullptr ? params.num_q_heads : 0) + 2 * static_cast<int64_t>(params.kv.num_kv_heads);
  const int64_t tasks = heads * params.num_tokens;
  if (tasks > INT32_MAX - kPlainThreads) {
    fail(OCTAVO_INVALID_ARGUMENT, "too many tokens for one append: %d", params.num_tokens);
  }
  if (is_plain_append(params)) {
    const int lanes = params.head_dim <= 64 ? 8 : params.head_dim <= 128 ? 16 : 32;
    const auto kernel = lanes == 8 ? append_plain_kernel<8> : lanes == 16 ? append_plain_kernel<16> : append_plain_kernel<32>;
    const int blocks = static_cast<int>((tasks * lanes + kPlainThreads - 1) / kPlainThreads);
    return gpu_launch(kernel, blocks, kPlainThreads, 0, stream, overlap, params);
  }
  const int blocks = static_cast<int>((tasks + kWarps - 1) / kWarps);
  const auto kernel = params.stats == nullptr ? append_kernel<false> : append_kernel<true>;
  gpu_launch(kernel, blocks, kWarps * 32, 0, stream, overlap, params);
}

}  // namespace octavo
