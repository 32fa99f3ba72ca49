// One block makes prefill's plan: which sequences it takes, which of them through the scratch, and their tiles, the longest
// first.
#include "arch/ptx.cuh"
#include "attn/prefill.h"
#include "attn/prefill_plan_math.h"
#include "attn/prefix_sum.cuh"

namespace octavo {
namespace {

// Writes a list's tiles in the order of their cost classes, by counting.
__device__ void place_tiles(const PrefillPlanParams& p, int list, int count) {
  __shared__ int next[kCostClasses + 1];
  static_assert(kCostClasses == kPlanThreads, "a thread clears one class");
  next[threadIdx.x] = 0;
  __syncthreads();
  const auto tile_of = [&](int i) {
    const int seq = find_last(p.seq_tile[list], p.num_seqs, i);
    return make_tile(p, list, seq, i - p.seq_tile[list][seq]);
  };
  for (int i = threadIdx.x; i < count; i += kPlanThreads) atomicAdd(&next[cost_class(tile_of(i))], 1);
  __syncthreads();
  block_prefix_sum(
      kCostClasses, [&](int c) { return next[c]; }, [&](int c, int64_t sum) { next[c] = static_cast<int>(sum); });
  for (int i = threadIdx.x; i < count; i += kPlanThreads) {
    const PrefillTile tile = tile_of(i);
    p.tiles[list][atomicAdd(&next[cost_class(tile)], 1)] = tile;
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kPlanThreads) prefill_plan_kernel(const __grid_constant__ PrefillPlanParams p) {
  gpu_wait_for_predecessor();
  gpu_release_successor();
  block_prefix_sum(
      p.num_seqs, [&](int s) { return p.query_len[s]; },
      [&](int s, int64_t sum) { p.seq_token[s] = static_cast<int32_t>(sum); });
  block_prefix_sum(
      p.num_seqs, [&](int s) { return scratch_need(p, s); },
      [&](int s, int64_t sum) { p.seq_scratch[s] = static_cast<int32_t>(smaller(sum, int64_t{INT32_MAX})); });
  block_prefix_sum(
      p.num_seqs, [&](int s) { return has_scratch(p, s) ? 1 : 0; },
      [&](int s, int64_t sum) {
        if (s == p.num_seqs)
          *p.num_spans = static_cast<int32_t>(sum);
        else if (has_scratch(p, s))
          p.spans[sum] = make_span(p, s);
      });
  for (int s = threadIdx.x; s < p.num_seqs; s += kPlanThreads) {
    p.prefilled[s] = count_tiles(p, s, kFastList) + count_tiles(p, s, kGeneralList) > 0;
  }
  for (int list = 0; list < kPrefillLists; ++list) {
    block_prefix_sum(
        p.num_seqs, [&](int s) { return count_tiles(p, s, list); },
        [&](int s, int64_t sum) { p.seq_tile[list][s] = static_cast<int32_t>(sum); });
    const int count = smaller(p.seq_tile[list][p.num_seqs], p.max_tiles);
    if (threadIdx.x == 0) p.num_tiles[list] = count;
    place_tiles(p, list, count);
  }
}

}  // namespace

void make_prefill_plan(const PrefillPlanParams& params, GpuStream stream, bool overlap) {
  gpu_launch(prefill_plan_kernel, 1, kPlanThreads, 0, stream, overlap, params);
}

}  // namespace octavo
