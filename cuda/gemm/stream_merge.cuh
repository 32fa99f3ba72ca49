// Tiles that a range's edge cuts: every block stores the sums of its part, and when all parts of a tile are there, its
// blocks share the work of adding them, in the order of the ranges, and of finishing them.
//
//   part: [8 tokens][warp][lane] -> float4, as the threads hold it         unit: one warp's float4 of 8 tokens
//
// Blocks of one launch wait for each other here: the launch must fit the card at once (one block a multiprocessor).
#pragma once

#include "arch/hopper.cuh"
#include "gemm/stream_epilogue.cuh"

namespace octavo {

constexpr int kStreamBarrier = 1;  // named barrier of the threads that compute

__device__ inline void stream_barrier() { named_barrier<kStreamBarrier, kStreamThreads>(); }

__device__ inline int32_t read_counter(const int32_t* counter) {
  int32_t value;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
  return value;
}

// The blocks that share a tile: first .. last.
struct StreamParts {
  int first;
  int last;
  int first_slot;  // which slot of the first block holds its part: 1 where other tiles came before

  __device__ StreamParts(const StreamPlan& plan, int tile)
      : first(plan.block_of(tile * plan.tile_steps)),
        last(plan.block_of((tile + 1) * plan.tile_steps - 1)),
        first_slot(plan.begin(first) < tile * plan.tile_steps ? 1 : 0) {}
  __device__ int count() const { return last - first + 1; }
};

template <class Tile>
class StreamMerge {
 public:
  __device__ StreamMerge(const StreamParams& p, int warp, int lane) : p_(p), warp_(warp), lane_(lane) {}

  // Stores this block's part of a tile and says so.
  __device__ void store(int tile, const float (&sums)[Tile::kSums]) const {
    const StreamParts parts(p_.plan, tile);
    const bool is_first = static_cast<int>(blockIdx.x) == parts.first;
    float4* to = slot(blockIdx.x, is_first ? parts.first_slot : 0) + warp_ * 32 + lane_;
#pragma unroll
    for (int j = 0; j < Tile::kColumns / 8; ++j) {
      if (j * 8 < p_.m) __stcg(to + j * kStreamThreads, make_float4(sums[4 * j], sums[4 * j + 1], sums[4 * j + 2], sums[4 * j + 3]));
    }
    stream_barrier();
    if (threadIdx.x == 0) atomic_increment(p_.counters + 2 * parts.first);
  }

  // This block's share of a tile's units; returns when the counters can be used again.
  __device__ void merge(int tile) const {
    const StreamParts parts(p_.plan, tile);
    int32_t* counters = p_.counters + 2 * parts.first;
    if (threadIdx.x == 0) {
      while (read_counter(counters) < parts.count()) {
      }
    }
    stream_barrier();
    const int units = (p_.m + 7) / 8 * kStreamWarps;
    const int share = blockIdx.x - parts.first;
    for (int unit = share + warp_ * parts.count(); unit < units; unit += kStreamWarps * parts.count()) {
      const StreamRowPair rows = stream_rows(p_, tile, unit % kStreamWarps, lane_);
      finish_sums(p_, rows, unit / kStreamWarps * 8, add_parts(parts, unit), lane_);
    }
    stream_barrier();
    if (threadIdx.x == 0 && atomic_increment(counters + 1) == parts.count() - 1) {
      counters[0] = 0;
      counters[1] = 0;
    }
  }

 private:
  __device__ float4* slot(int block, int which) const {
    return reinterpret_cast<float4*>(p_.partials) +
           static_cast<int64_t>(2 * block + which) * (Tile::kColumns / 8) * kStreamThreads;
  }

  // They come from other blocks: they are read past the first-level cache.
  __device__ float4 add_parts(const StreamParts& parts, int unit) const {
    constexpr int kBatch = 4;  // parts whose loads are in flight together
    const int at = unit * 32 + lane_;
    float4 sum = make_float4(0, 0, 0, 0);
    for (int first = 0; first < parts.count(); first += kBatch) {
      float4 part[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int k = min(first + i, parts.count() - 1);
        part[i] = __ldcg(slot(parts.first + k, k == 0 ? parts.first_slot : 0) + at);
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (first + i >= parts.count()) continue;
        sum.x += part[i].x;
        sum.y += part[i].y;
        sum.z += part[i].z;
        sum.w += part[i].w;
      }
    }
    return sum;
  }

  const StreamParams& p_;
  int warp_;
  int lane_;
};

}  // namespace octavo
