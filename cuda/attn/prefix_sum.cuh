// Prefix sums by one block, for the kernels that make plans.
#pragma once

#include <cstdint>

namespace octavo {

constexpr int kPlanThreads = 1024;

__device__ inline int64_t warp_inclusive_sum(int64_t value) {
  const int lane = threadIdx.x & 31;
  for (int offset = 1; offset < 32; offset *= 2) {
    const int64_t below = __shfl_up_sync(~0u, value, offset);
    if (lane >= offset) value += below;
  }
  return value;
}

// Exclusive prefix sums of value(i), i in [0, count), into store(i, sum); store(count, total) too. Whole block of
// kPlanThreads.
template <class Value, class Store>
__device__ void block_prefix_sum(int count, Value value, Store store) {
  __shared__ int64_t warp_total[kPlanThreads / 32];
  const int lane = threadIdx.x & 31;
  const int warp = threadIdx.x >> 5;
  int64_t base = 0;
  for (int start = 0; start < count; start += kPlanThreads) {
    const int i = start + static_cast<int>(threadIdx.x);
    const int64_t own = i < count ? static_cast<int64_t>(value(i)) : 0;
    const int64_t inclusive = warp_inclusive_sum(own);
    if (lane == 31) warp_total[warp] = inclusive;
    __syncthreads();
    if (warp == 0) warp_total[lane] = warp_inclusive_sum(warp_total[lane]);
    __syncthreads();
    const int64_t before = base + (warp > 0 ? warp_total[warp - 1] : 0);
    if (i < count) store(i, before + inclusive - own);
    base += warp_total[kPlanThreads / 32 - 1];
    __syncthreads();
  }
  if (threadIdx.x == 0) store(count, base);
  __syncthreads();
}

}  // namespace octavo
