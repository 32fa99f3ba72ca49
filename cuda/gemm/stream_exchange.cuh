// Where several blocks share a tile, each has sums of all its lines over a part of the steps. They exchange them, so that
// each adds and finishes a share: block r those of warps r, r + split, ..
//
//   buffer of a block:  [source block][warp / split][8 tokens][lane] -> float4, as the source's threads held it
//
// Buffers are in global memory, which here means the second-level cache, with a counter each: 8 arrivals (one for each
// source warp that sends there) say that a buffer is full. The blocks of a launch wait for each other and must fit the
// card at once; those of a later launch come after them. Clusters, which exchange through shared memory, take half a
// microsecond less, but fewer of them fit the card than a matrix of 4096 rows wants, and how many differs from card to
// card.
//
// Exchanges alternate between two buffers: who writes into a buffer again has seen an exchange in the other buffer that
// its owner sent after it was done with the first.
#pragma once

#include "arch/wgmma.cuh"
#include "gemm/stream_epilogue.cuh"

namespace octavo {

constexpr int kStreamBarrier = 1;  // named barrier of the threads that compute

__device__ inline void stream_barrier() { named_barrier_wait(kStreamBarrier, kStreamThreads); }

template <class Tile>
class StreamExchange {
 public:
  __device__ StreamExchange(const StreamParams& p, int warp, int lane)
      : p_(p),
        warp_(warp),
        lane_(lane),
        rank_(blockIdx.x % p.plan.split),
        warps_per_owner_(kStreamWarps / p.plan.split) {}

  // Exchanges the sums of a tile and finishes this block's share.
  __device__ void finish(int tile, const float (&sums)[Tile::kSums]) {
    constexpr int kEights = Tile::kColumns / 8;
    constexpr int kAtOnce = kEights < 8 ? kEights : 8;
    const int used = (p_.m + 7) / 8;
#pragma unroll
    for (int first = 0; first < kEights; first += kAtOnce) {
      if (first >= used) break;
      const int count = min(kAtOnce, used - first);
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        if (j >= count) break;
        const int at = 4 * (first + j);
        put((warp_ / p_.plan.split) * count + j, count,
            make_float4(sums[at], sums[at + 1], sums[at + 2], sums[at + 3]));
      }
      send();
      add_share(tile, first * 8, count);
    }
  }

 private:
  __device__ int owner() const { return warp_ % p_.plan.split; }
  __device__ int buffer() const { return exchanges_ & 1; }

  __device__ float4* buffer_of(int rank) const {
    return reinterpret_cast<float4*>(p_.partials) +
           (static_cast<int64_t>(blockIdx.x - rank_ + rank) * 2 + buffer()) * (Tile::kExchangeBytes / 16);
  }
  __device__ int32_t* counter(int rank) const { return p_.counters + 2 * (blockIdx.x - rank_ + rank) + buffer(); }

  // Place of a unit from block `source`, of `count` eights of tokens a warp.
  __device__ int place(int source, int unit, int count) const {
    return (source * warps_per_owner_ * count + unit) * 32 + lane_;
  }

  __device__ void put(int unit, int count, float4 sums) const {
    __stcg(buffer_of(owner()) + place(rank_, unit, count), sums);
  }

  // Says that this warp's sums are there.
  __device__ void send() const {
    __syncwarp();
    if (lane_ == 0) atomic_increment(counter(owner()));
  }

  // Waits until all sums for this block are there.
  __device__ void receive() const {
    if (threadIdx.x == 0) {
      int32_t* const own = counter(rank_);
      while (load_acquire(reinterpret_cast<const uint32_t*>(own)) < kStreamWarps) {
      }
      *own = 0;
    }
    stream_barrier();
  }

  __device__ float4 take(int source, int unit, int count) const {
    return __ldcg(buffer_of(rank_) + place(source, unit, count));
  }

  __device__ void add_share(int tile, int column, int count) {
    const int units = warps_per_owner_ * count;
    bool received = false;
    for (int unit = warp_; unit < units; unit += kStreamWarps) {
      const StreamRows rows = load_stream_rows(p_, tile, unit / count * p_.plan.split + rank_, lane_);
      const StreamUnit loaded = load_unit(p_, rows, column + unit % count * 8, lane_);
      if (!received) receive();
      received = true;
      float4 sum = take(0, unit, count);
      for (int source = 1; source < p_.plan.split; ++source) {
        const float4 part = take(source, unit, count);
        sum.x += part.x;
        sum.y += part.y;
        sum.z += part.z;
        sum.w += part.w;
      }
      finish_unit(p_, loaded, sum, lane_);
    }
    if (!received) receive();
    stream_barrier();
    ++exchanges_;
  }

  const StreamParams& p_;
  int warp_;
  int lane_;
  int rank_;
  int warps_per_owner_;
  int exchanges_ = 0;
};

}  // namespace octavo
