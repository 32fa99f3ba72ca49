// Keys and values that the fast prefill kernel cannot read as they lie, converted once a chunk: into granules of 16-bit
// elements whose rows are whole column blocks. FP8 becomes f16, exactly. A format with scales of its own beside each
// token applies them here, where a row is read.
#include "arch/ptx.cuh"
#include "attn/plan_math.h"
#include "attn/prefill.h"

namespace octavo {
namespace {

constexpr int kThreads = 256;

// 16 elements of a stored row, from dim 16 `group` on, as two 16-byte chunks; past the row's end zeros.
__device__ void read_elements(const uint8_t* half, const ScratchParams& p, int token, int group, uint4 (&out)[2]) {
  const int row_bytes = p.kv.row_bytes;
  out[0] = out[1] = make_uint4(0, 0, 0, 0);
  if (p.kv_dtype == OCTAVO_KV_FLOAT16 || p.kv_dtype == OCTAVO_KV_BFLOAT16) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int chunk = 2 * group + i;
      if (chunk * kChunkBytes < row_bytes) {
        out[i] = *reinterpret_cast<const uint4*>(half + chunk_offset(row_bytes, token, chunk));
      }
    }
    return;
  }
  if (group * kChunkBytes >= row_bytes) return;
  const uint4 stored = *reinterpret_cast<const uint4*>(half + chunk_offset(row_bytes, token, group));
  const uint32_t words[4] = {stored.x, stored.y, stored.z, stored.w};
  uint32_t wide[8];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (p.kv_dtype == OCTAVO_KV_FP8_E4M3)
      e4m3x4_to_f16x4(words[i], wide[2 * i], wide[2 * i + 1]);
    else
      e5m2x4_to_f16x4(words[i], wide[2 * i], wide[2 * i + 1]);
  }
  out[0] = make_uint4(wide[0], wide[1], wide[2], wide[3]);
  out[1] = make_uint4(wide[4], wide[5], wide[6], wide[7]);
}

// A warp takes a (granule, kv head) at a time.
__global__ void __launch_bounds__(kThreads) scratch_kernel(const __grid_constant__ ScratchParams p) {
  gpu_wait_for_predecessor();
  gpu_release_successor();
  const int num_spans = *p.num_spans;
  const int lane = static_cast<int>(threadIdx.x & 31);
  const int groups = p.row_bytes / 32;  // of 16 elements, of a scratch row
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
    const int half_bytes = half_granule_bytes(p.row_bytes);
    uint8_t* to = p.scratch + head * p.head_bytes + static_cast<int64_t>(granule) * 2 * half_bytes;
    //   unit: group fastest: | token 0: group 0, 1, .. | token 1 | .. | K ends, V begins
    for (int unit = lane; unit < 2 * kGranuleTokens * groups; unit += 32) {
      const int group = unit % groups;
      const int token = unit / groups % kGranuleTokens;
      const int half = unit / groups / kGranuleTokens;
      uint4 out[2] = {};
      if (key + token >= span.key_begin && key + token < span.key_end) {
        read_elements(from + half * p.kv.value_at, p, token, group, out);
      }
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        *reinterpret_cast<uint4*>(to + half * half_bytes + chunk_offset(p.row_bytes, token, 2 * group + e)) = out[e];
      }
    }
  }
}

}  // namespace

void fill_scratch(const ScratchParams& params, GpuStream stream, bool overlap) {
  gpu_launch(scratch_kernel, gpu_device().num_sms * 8, kThreads, 0, stream, overlap, params);
}

}  // namespace octavo
