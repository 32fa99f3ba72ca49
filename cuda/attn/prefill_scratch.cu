// Keys and values that the fast prefill kernel cannot read as they lie, converted once a chunk: into granules of 16-bit
// elements whose rows are whole column blocks. FP8 becomes f16, exactly. Of formats with scales of their own the codes are
// multiplied by them and, where the format is rotated, turned back; one rounding to f16 follows.
#include "arch/ptx.cuh"
#include "attn/plan_math.h"
#include "attn/prefill.h"
#include "kv/format.h"

namespace octavo {
namespace {

constexpr int kThreads = 256;

// Codes of a stored row are read in groups of 16 elements, and become two chunks of the scratch.
struct Group {
  uint4 chunk[2];
};

// Of a row of half a granule; past the row's end zeros.
__device__ Group read_plain(const ScratchParams& p, const uint8_t* half, int token, int group) {
  const int row_bytes = p.kv.row_bytes;
  Group result = {};
  if (p.kv_dtype == OCTAVO_KV_FLOAT16 || p.kv_dtype == OCTAVO_KV_BFLOAT16) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int chunk = 2 * group + i;
      if (chunk * kChunkBytes >= row_bytes) break;
      result.chunk[i] = *reinterpret_cast<const uint4*>(half + chunk_offset(row_bytes, token, chunk));
    }
    return result;
  }
  if (group * kChunkBytes >= row_bytes) return result;
  const uint4 codes = *reinterpret_cast<const uint4*>(half + chunk_offset(row_bytes, token, group));
  const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
  uint32_t wide[8];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (p.kv_dtype == OCTAVO_KV_FP8_E5M2)
      e5m2x4_to_f16x4(words[i], wide[2 * i], wide[2 * i + 1]);
    else
      e4m3x4_to_f16x4(words[i], wide[2 * i], wide[2 * i + 1]);
  }
  return {make_uint4(wide[0], wide[1], wide[2], wide[3]), make_uint4(wide[4], wide[5], wide[6], wide[7])};
}

// x = H x for a row of which each lane of a run of lanes holds 16 dims, in order. Whole warp.
__device__ void turn_back(float (&x)[16], int block) {
  const int lane = static_cast<int>(threadIdx.x & 31);
#pragma unroll
  for (int distance = 1; distance < 16; distance *= 2) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      if ((i & distance) != 0) continue;
      const float low = x[i];
      x[i] = low + x[i + distance];
      x[i + distance] = low - x[i + distance];
    }
  }
#pragma unroll
  for (int distance = 1; distance < 16; distance *= 2) {  // between lanes, 16 dims apart
    if (16 * distance >= block) break;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const float other = __shfl_xor_sync(~0u, x[i], distance);
      x[i] = (lane & distance) != 0 ? other - x[i] : x[i] + other;
    }
  }
  const float norm = 1.0f / sqrtf(static_cast<float>(block));
#pragma unroll
  for (int i = 0; i < 16; ++i) x[i] *= norm;
}

// As read_plain, of formats with scales. The lanes of a row lie side by side. Whole warp; only the valid lanes read.
__device__ Group read_scaled(const ScratchParams& p, int code, bool is_rotated, const uint8_t* half, float scale,
                             int token, int group, bool valid) {
  float x[16] = {};
  if (valid && group * kChunkBytes < p.kv.row_bytes) {
    const uint4 codes = *reinterpret_cast<const uint4*>(half + chunk_offset(p.kv.row_bytes, token, group));
    const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (code == OCTAVO_KV_INT8) {
#pragma unroll
        for (int e = 0; e < 4; ++e) x[4 * i + e] = static_cast<float>(static_cast<int8_t>(words[i] >> (8 * e))) * scale;
      } else {
        uint32_t wide[2];
        e4m3x4_to_f16x4(words[i], wide[0], wide[1]);
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float2 two = __half22float2(*reinterpret_cast<const __half2*>(&wide[e]));
          x[4 * i + 2 * e] = two.x * scale;
          x[4 * i + 2 * e + 1] = two.y * scale;
        }
      }
    }
  }
  if (is_rotated) turn_back(x, rotation_block(p.head_dim));
  const auto saturate = [](float v) { return fabsf(v) > 65504.0f ? copysignf(65504.0f, v) : v; };
  uint32_t pairs[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) pairs[i] = pack_f16x2(saturate(x[2 * i]), saturate(x[2 * i + 1]));
  return {make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]), make_uint4(pairs[4], pairs[5], pairs[6], pairs[7])};
}

// A warp takes a (granule, kv head) at a time.
template <bool kScaled>
__global__ void __launch_bounds__(kThreads) scratch_kernel(const __grid_constant__ ScratchParams p) {
  gpu_wait_for_predecessor();
  gpu_release_successor();
  const KvFormat format = kv_format(p.kv_dtype);
  const int num_spans = *p.num_spans;
  const int lane = static_cast<int>(threadIdx.x & 31);
  const int groups = p.row_bytes / 32;  // of a scratch row
  const int half_bytes = half_granule_bytes(p.row_bytes);
  int span_index = 0;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kThreads / 32);
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + (threadIdx.x >> 5);; i += warps) {
    const int granule = static_cast<int>(i / p.kv.num_kv_heads);
    const int head = static_cast<int>(i - static_cast<int64_t>(granule) * p.kv.num_kv_heads);
    while (span_index < num_spans && granule >= p.spans[span_index].granule_end) ++span_index;
    if (span_index == num_spans) return;
    const ScratchSpan span = p.spans[span_index];
    const int key = (span.key_begin / kGranuleTokens + granule - span.granule_begin) * kGranuleTokens;
    const int32_t page = p.page_table[static_cast<int64_t>(span.seq) * p.max_pages + (key >> p.kv.page_shift)];
    const uint32_t last = static_cast<uint32_t>(p.num_pages - 1);  // ids are kept inside the pool
    const uint8_t* from = p.pages + p.kv.granule_offset(static_cast<int32_t>(smaller(static_cast<uint32_t>(page), last)),
                                                        head, key & ((1 << p.kv.page_shift) - 1));
    uint8_t* to = p.scratch + head * p.head_bytes + static_cast<int64_t>(granule) * 2 * half_bytes;
    //   unit: group fastest: | token 0: group 0, 1, .. | token 1 | .. | K ends, V begins      a multiple of 32
    for (int unit = lane; unit < 2 * kGranuleTokens * groups; unit += 32) {
      const int group = unit % groups;
      const int token = unit / groups % kGranuleTokens;
      const bool is_value = unit >= kGranuleTokens * groups;
      const uint8_t* half = from + (is_value ? p.kv.value_at : 0);
      const bool valid = key + token >= span.key_begin && key + token < span.key_end;
      Group out = {};
      if constexpr (kScaled) {
        const float* scales = reinterpret_cast<const float*>(from + (is_value ? p.kv.value_scales_at : p.kv.key_scales_at));
        const int code = is_value ? format.value.code : format.key.code;
        out = read_scaled(p, code, format.is_rotated, half, valid ? scales[token] : 0.0f, token, group, valid);
      } else if (valid) {
        out = read_plain(p, half, token, group);
      }
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        *reinterpret_cast<uint4*>(to + (is_value ? half_bytes : 0) + chunk_offset(p.row_bytes, token, 2 * group + e)) =
            out.chunk[e];
      }
    }
  }
}

}  // namespace

void fill_scratch(const ScratchParams& params, GpuStream stream, bool overlap) {
  const auto kernel = has_own_scales(params.kv_dtype) ? scratch_kernel<true> : scratch_kernel<false>;
  gpu_launch(kernel, gpu_device().num_sms * 8, kThreads, 0, stream, overlap, params);
}

}  // namespace octavo
