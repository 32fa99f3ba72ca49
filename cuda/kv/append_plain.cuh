// The append of formats without scales of their own, where nothing is counted: what every step of a served model does for
// all of its tokens, at the memory's speed. Lanes hold four neighbouring dims of each half of a head, and read and write
// them at once.
#pragma once

#include "arch/block_rows.cuh"
#include "kv/append.h"
#include "kv/encode.cuh"
#include "kv/format.h"

namespace octavo {

constexpr int kPlainThreads = 256;

// Whether append_plain_kernel takes a call.
inline bool is_plain_append(const AppendParams& p) {
  const auto is_aligned = [](const void* x, int64_t stride) {
    return reinterpret_cast<uintptr_t>(x) % 16 == 0 && stride % 4 == 0;
  };
  return p.stats == nullptr && !has_own_scales(p.kv_dtype) && p.in_dtype == OCTAVO_F32 && p.head_dim % 8 == 0 &&
         is_aligned(p.q, p.q_stride) && is_aligned(p.k, p.k_stride) && is_aligned(p.v, p.v_stride) &&
         is_aligned(p.q_norm, 0) && is_aligned(p.k_norm, 0) && is_aligned(p.cosines, 0) && is_aligned(p.sines, 0);
}

// Of one head of one token, a lane's dims 4 i .. 4 i + 3 and those half a head further.
struct HeadPart {
  float4 low;
  float4 high;
};

// The squares of eight dims of a head, and RoPE on a pair of them. Spelled out, so that both append kernels give the same
// bits: counting changes nothing.
__device__ inline float sum_squares(const float4& low, const float4& high) {
  float sum = __fmul_rn(low.x, low.x);
  for (float x : {low.y, low.z, low.w, high.x, high.y, high.z, high.w}) sum = fmaf(x, x, sum);
  return sum;
}

__device__ inline float rotate_low(float low, float high, float cosine, float sine) {
  return fmaf(low, cosine, -__fmul_rn(high, sine));
}
__device__ inline float rotate_high(float low, float high, float cosine, float sine) {
  return fmaf(high, cosine, __fmul_rn(low, sine));
}

__device__ inline float4 load_four(const float* x) { return *reinterpret_cast<const float4*>(x); }

// kLanes hold a head: a power of two, with 4 x kLanes >= half. Lanes beyond the head hold zeros.
template <int kLanes>
class PlainHead {
 public:
  __device__ PlainHead(const AppendParams& p, int lane) : p_(p), half_(p.head_dim / 2), first_(4 * lane) {}

  __device__ bool has_dims() const { return first_ < half_; }

  __device__ HeadPart read(const float* head) const {
    if (!has_dims()) return {};
    return {load_four(head + first_), load_four(head + half_ + first_)};
  }

  __device__ void normalise(HeadPart& part, const float* weights) const {
    float sum = sum_squares(part.low, part.high);
    const int group = static_cast<int>(threadIdx.x & 31) / kLanes * kLanes;
    const uint32_t mask = kLanes == 32 ? ~0u : ((1u << (kLanes & 31)) - 1) << group;
#pragma unroll
    for (int offset = kLanes / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(mask, sum, offset);
    if (!has_dims()) return;
    const float factor = 1.0f / sqrtf(sum / static_cast<float>(p_.head_dim) + p_.norm_eps);
    scale_four(part.low, load_four(weights + first_), factor);
    scale_four(part.high, load_four(weights + half_ + first_), factor);
  }

  __device__ void rotate(HeadPart& part, int64_t token) const {
    if (!has_dims()) return;
    const float4 cosine = load_four(p_.cosines + token * half_ + first_);
    const float4 sine = load_four(p_.sines + token * half_ + first_);
    const HeadPart before = part;
    part.low = make_float4(rotate_low(before.low.x, before.high.x, cosine.x, sine.x),
                           rotate_low(before.low.y, before.high.y, cosine.y, sine.y),
                           rotate_low(before.low.z, before.high.z, cosine.z, sine.z),
                           rotate_low(before.low.w, before.high.w, cosine.w, sine.w));
    part.high = make_float4(rotate_high(before.low.x, before.high.x, cosine.x, sine.x),
                            rotate_high(before.low.y, before.high.y, cosine.y, sine.y),
                            rotate_high(before.low.z, before.high.z, cosine.z, sine.z),
                            rotate_high(before.low.w, before.high.w, cosine.w, sine.w));
  }

  __device__ void write_query(const HeadPart& part, int64_t at) const {
    if (!has_dims()) return;
    if (p_.q_out_dtype == OCTAVO_F32) {
      float* out = static_cast<float*>(p_.q_out) + at;
      *reinterpret_cast<float4*>(out + first_) = part.low;
      *reinterpret_cast<float4*>(out + half_ + first_) = part.high;
      return;
    }
    uint16_t* out = static_cast<uint16_t*>(p_.q_out) + at;
    *reinterpret_cast<uint2*>(out + first_) = pack_compute(part.low, p_.q_out_dtype);
    *reinterpret_cast<uint2*>(out + half_ + first_) = pack_compute(part.high, p_.q_out_dtype);
  }

  // To K or V of a granule. Bytes past head_dim, up to a chunk's end, are stored as 0.
  __device__ void store(const HeadPart& part, float scale, int token, uint8_t* codes) const {
    const int bytes = kv_format(p_.kv_dtype).key.code_bits / 8;
    const int pad = p_.head_dim * bytes + first_;
    if (pad < p_.kv.row_bytes) *reinterpret_cast<uint32_t*>(codes + byte_offset(p_.kv.row_bytes, token, pad)) = 0;
    if (!has_dims()) return;
    store_four(part.low, scale, codes + byte_offset(p_.kv.row_bytes, token, first_ * bytes));
    store_four(part.high, scale, codes + byte_offset(p_.kv.row_bytes, token, (half_ + first_) * bytes));
  }

 private:
  __device__ void scale_four(float4& x, const float4& weight, float factor) const {
    x.x *= factor * (weight.x + p_.norm_offset);
    x.y *= factor * (weight.y + p_.norm_offset);
    x.z *= factor * (weight.z + p_.norm_offset);
    x.w *= factor * (weight.w + p_.norm_offset);
  }

  __device__ void store_four(float4 x, float scale, uint8_t* to) const {
    if (scale != 1.0f) {
      x = make_float4(__fdiv_rn(x.x, scale), __fdiv_rn(x.y, scale), __fdiv_rn(x.z, scale), __fdiv_rn(x.w, scale));
    }
    const auto pack = [](uint16_t low, uint16_t high) { return low | static_cast<uint32_t>(high) << 16; };
    switch (p_.kv_dtype) {
      case OCTAVO_KV_FLOAT32:
        *reinterpret_cast<float4*>(to) = x;
        return;
      case OCTAVO_KV_FLOAT16:
        *reinterpret_cast<uint2*>(to) = make_uint2(pack(encode_f16(x.x), encode_f16(x.y)),
                                                   pack(encode_f16(x.z), encode_f16(x.w)));
        return;
      case OCTAVO_KV_BFLOAT16:
        *reinterpret_cast<uint2*>(to) = make_uint2(pack(encode_bf16(x.x), encode_bf16(x.y)),
                                                   pack(encode_bf16(x.z), encode_bf16(x.w)));
        return;
      default:
        *reinterpret_cast<uint32_t*>(to) = pack(encode_fp8x2(p_.kv_dtype, x.x, x.y), encode_fp8x2(p_.kv_dtype, x.z, x.w));
    }
  }

  const AppendParams& p_;
  int half_;
  int first_;
};

// kLanes of a warp take one (token, head); heads: q heads, then K's, then V's.
template <int kLanes>
__global__ void __launch_bounds__(kPlainThreads) append_plain_kernel(const __grid_constant__ AppendParams p) {
  gpu_wait_for_predecessor();
  gpu_release_successor();
  const int q_heads = p.q != nullptr ? p.num_q_heads : 0;
  const int heads = q_heads + 2 * p.kv.num_kv_heads;
  const int task = static_cast<int>(blockIdx.x) * (kPlainThreads / kLanes) + static_cast<int>(threadIdx.x) / kLanes;
  const int token = task / heads;
  const int head_index = task - token * heads;
  if (token >= p.num_tokens) return;
  const bool is_query = head_index < q_heads;
  const bool is_value = head_index >= q_heads + p.kv.num_kv_heads;
  const int head_of_kind = is_query ? head_index : head_index - q_heads - (is_value ? p.kv.num_kv_heads : 0);
  const void* source = is_query ? p.q : is_value ? p.v : p.k;
  const int64_t stride = is_query ? p.q_stride : is_value ? p.v_stride : p.k_stride;
  const PlainHead<kLanes> head(p, static_cast<int>(threadIdx.x) % kLanes);
  HeadPart part = head.read(static_cast<const float*>(source) + token * stride +
                            static_cast<int64_t>(head_of_kind) * p.head_dim);
  if (!is_value) {
    const float* weights = is_query ? p.q_norm : p.k_norm;
    if (weights != nullptr) head.normalise(part, weights);
    if (p.cosines != nullptr) head.rotate(part, token);
  }
  if (is_query) {
    head.write_query(part, (static_cast<int64_t>(token) * p.num_q_heads + head_of_kind) * p.head_dim);
    return;
  }
  const int64_t slot = p.slot_mapping[token];
  if (slot < 0 || slot >= p.num_slots) return;
  const float scale = p.scales == nullptr ? 1.0f : p.scales[(is_value ? p.kv.num_kv_heads : 0) + head_of_kind];
  const int in_page = static_cast<int>(slot & ((1 << p.kv.page_shift) - 1));
  uint8_t* granule =
      p.pages + p.kv.granule_offset(static_cast<int32_t>(slot >> p.kv.page_shift), head_of_kind, in_page);
  head.store(part, scale, in_page & 15, granule + (is_value ? p.kv.value_at : 0));
}

}  // namespace octavo
