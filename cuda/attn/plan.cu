// One block makes the plan: rows from lengths, costs from rows, equal cuts of the cost.
#include "arch/ptx.cuh"
#include "attn/plan.h"
#include "attn/plan_math.h"
#include "attn/prefix_sum.cuh"

namespace octavo {
namespace {

// Rows of a plan that are kept in shared memory too: each of the steps below looks some up.
constexpr int kSharedRows = 768;

// Sums of query tokens and of rows before each sequence. Returns the number of rows. Without query_len, rows are
// sequences, and nothing is stored.
__device__ int sum_rows(const PlanParams& p) {
  if (p.query_len == nullptr) return smaller(p.num_seqs, p.max_rows);
  block_prefix_sum(
      p.num_seqs, [&](int s) { return p.query_len[s]; },
      [&](int s, int64_t sum) { p.seq_token[s] = static_cast<int32_t>(sum); });
  block_prefix_sum(
      p.num_seqs, [&](int s) { return count_rows(p, s); },
      [&](int s, int64_t sum) { p.seq_row[s] = static_cast<int32_t>(sum); });
  return smaller(p.seq_row[p.num_seqs], p.max_rows);
}

__global__ void __launch_bounds__(kPlanThreads) plan_kernel(const __grid_constant__ PlanParams params) {
  __shared__ Cut cuts[kMaxRanges + 1];
  __shared__ PlanRow shared_rows[kSharedRows];
  __shared__ int64_t shared_cost[kSharedRows + 1];
  gpu_wait_for_predecessor();
  gpu_release_successor();
  PlanParams p = params;
  if (p.max_rows <= kSharedRows) {
    p.rows = shared_rows;
    p.row_cost = shared_cost;
  }
  const int num_rows = sum_rows(p);
  for (int r = threadIdx.x; r < num_rows; r += kPlanThreads) {
    const int seq = p.query_len == nullptr ? r : find_last(p.seq_row, p.num_seqs, r);
    const PlanRow row = make_row(p, seq, p.query_len == nullptr ? 0 : r - p.seq_row[seq]);
    p.rows[r] = row;
    params.rows[r] = row;
  }
  __syncthreads();
  block_prefix_sum(
      num_rows, [&](int r) { return item_cost(p, p.rows[r]) * p.num_kv_heads; },
      [&](int r, int64_t sum) { p.row_cost[r] = sum; });

  const int64_t total = p.row_cost[num_rows];
  const int num_items = num_rows * p.num_kv_heads;
  const int used = count_ranges(p, num_items, total - static_cast<int64_t>(num_items) * p.item_cost);
  for (int c = threadIdx.x; c <= p.num_ranges; c += kPlanThreads) {
    cuts[c] = find_cut(p, num_rows, c >= used ? total : total * c / used);
  }
  __syncthreads();
  for (int c = threadIdx.x; c < p.num_ranges; c += kPlanThreads) {
    const int block = c < used ? used - 1 - c : c;
    p.ranges[block] = make_range(p, cuts, c, used, num_items);
  }
  __syncthreads();
  const int pages = p.walk.warps * p.walk.stages * p.walk.granules;
  for (int i = threadIdx.x; i < p.num_ranges * pages; i += kPlanThreads) {
    const int c = i / pages;
    p.first_pages[i] = find_first_page(p, p.ranges[c], i % pages / p.walk.granules, i % p.walk.granules);
  }
}

}  // namespace

void make_plan(const PlanParams& params, GpuStream stream, bool overlap) {
  gpu_launch(plan_kernel, 1, kPlanThreads, 0, stream, overlap, params);
}

}  // namespace octavo
