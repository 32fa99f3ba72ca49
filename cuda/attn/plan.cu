// One block makes the plan: rows from lengths, costs from rows, equal cuts of the cost.
#include "arch/ptx.cuh"
#include "attn/plan.h"
#include "attn/plan_math.h"

namespace octavo {
namespace {

constexpr int kThreads = 1024;

__device__ int64_t warp_inclusive_sum(int64_t value) {
  const int lane = threadIdx.x & 31;
  for (int offset = 1; offset < 32; offset *= 2) {
    const int64_t below = __shfl_up_sync(~0u, value, offset);
    if (lane >= offset) value += below;
  }
  return value;
}

// Exclusive prefix sums of value(i), i in [0, count), into store(i, sum); store(count, total) too. Whole block.
template <class Value, class Store>
__device__ void block_prefix_sum(int count, Value value, Store store) {
  __shared__ int64_t warp_total[kThreads / 32];
  const int lane = threadIdx.x & 31;
  const int warp = threadIdx.x >> 5;
  int64_t base = 0;
  for (int start = 0; start < count; start += kThreads) {
    const int i = start + static_cast<int>(threadIdx.x);
    const int64_t own = i < count ? static_cast<int64_t>(value(i)) : 0;
    const int64_t inclusive = warp_inclusive_sum(own);
    if (lane == 31) warp_total[warp] = inclusive;
    __syncthreads();
    if (warp == 0) warp_total[lane] = warp_inclusive_sum(warp_total[lane]);
    __syncthreads();
    const int64_t before = base + (warp > 0 ? warp_total[warp - 1] : 0);
    if (i < count) store(i, before + inclusive - own);
    base += warp_total[kThreads / 32 - 1];
    __syncthreads();
  }
  if (threadIdx.x == 0) store(count, base);
  __syncthreads();
}

__global__ void __launch_bounds__(kThreads) plan_kernel(const __grid_constant__ PlanParams p) {
  __shared__ Cut cuts[kMaxRanges + 1];
  gpu_wait_for_predecessor();
  gpu_release_successor();
  block_prefix_sum(
      p.num_seqs, [&](int s) { return p.query_len == nullptr ? 1 : p.query_len[s]; },
      [&](int s, int64_t sum) { p.seq_token[s] = static_cast<int32_t>(sum); });
  block_prefix_sum(
      p.num_seqs,
      [&](int s) { return p.query_len == nullptr ? 1 : (p.query_len[s] + p.tile_tokens - 1) / p.tile_tokens; },
      [&](int s, int64_t sum) { p.seq_row[s] = static_cast<int32_t>(sum); });
  const int num_rows = smaller(p.seq_row[p.num_seqs], p.max_rows);
  for (int r = threadIdx.x; r < num_rows; r += kThreads) {
    const int seq = find_last(p.seq_row, p.num_seqs, r);
    p.rows[r] = make_row(p, seq, r - p.seq_row[seq]);
  }
  __syncthreads();
  block_prefix_sum(
      num_rows, [&](int r) { return item_cost(p, p.rows[r]) * p.num_kv_heads; },
      [&](int r, int64_t sum) { p.row_cost[r] = sum; });

  const int64_t total = p.row_cost[num_rows];
  const int num_items = num_rows * p.num_kv_heads;
  const int used = count_ranges(p, num_items, total - static_cast<int64_t>(num_items) * p.item_cost);
  for (int c = threadIdx.x; c <= p.num_ranges; c += kThreads) {
    cuts[c] = find_cut(p, num_rows, c >= used ? total : total * c / used);
  }
  __syncthreads();
  for (int c = threadIdx.x; c < p.num_ranges; c += kThreads) {
    p.ranges[c] = make_range(p, cuts, c, used, num_items);
  }
  __syncthreads();
  const int pages = p.walk.warps * p.walk.stages * p.walk.granules;
  for (int i = threadIdx.x; i < p.num_ranges * pages; i += kThreads) {
    const int c = i / pages;
    p.first_pages[i] = find_first_page(p, p.ranges[c], i % pages / p.walk.granules, i % p.walk.granules);
  }
}

}  // namespace

void make_plan(const PlanParams& params, GpuStream stream, bool overlap) {
  gpu_launch(plan_kernel, 1, kThreads, 0, stream, overlap, params);
}

}  // namespace octavo
