// Keys and values that the fast prefill kernel cannot read as they lie, converted once a chunk: into granules of 16-bit
// elements whose rows are whole column blocks. FP8 becomes f16, exactly. Scales that lie with the tokens would be applied
// in read_row, but formats that have them are left to decode's kernel.
#include "arch/ptx.cuh"
#include "attn/plan_math.h"
#include "attn/prefill.h"

namespace octavo {
namespace {

constexpr int kThreads = 256;

// Codes of a stored row are read in groups of 16 elements, and become two chunks of the scratch.
struct Group {
  uint4 chunk[2];
};

// Of a row of half a granule; past the row's end zeros.
__device__ Group read_row(const ScratchParams& p, const uint8_t* half, int token, int group) {
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

// A warp takes a (granule, kv head) at a time.
__global__ void __launch_bounds__(kThreads) scratch_kernel(const __grid_constant__ ScratchParams p) {
  gpu_wait_for_predecessor();
  gpu_release_successor();
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
      if (valid) out = read_row(p, half, token, group);
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
  gpu_launch(scratch_kernel, gpu_device().num_sms * 8, kThreads, 0, stream, overlap, params);
}

}  // namespace octavo
