// How K and V reach a warp's ring in shared memory: bulk copies that report to a barrier from compute capability 9.0
// on, 16-byte asynchronous copies elsewhere.
#pragma once

#include "arch/ptx.cuh"
#include "attn/decode.h"
#include "attn/decode_tile.h"

namespace octavo {

__device__ inline PlanRow load_row(const PlanRow* rows, int index) {
  PlanRow row;
  const int4* source = reinterpret_cast<const int4*>(rows + index);
  reinterpret_cast<int4*>(&row)[0] = source[0];
  reinterpret_cast<int4*>(&row)[1] = source[1];
  return row;
}

__device__ inline PlanRange load_range(const PlanRange* ranges, int index) {
  PlanRange range;
  const int4* source = reinterpret_cast<const int4*>(ranges + index);
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(PlanRange) / 16); ++i) reinterpret_cast<int4*>(&range)[i] = source[i];
  return range;
}

// The page ids of a warp's first copies, which come with the plan: this lane's granule of each.
template <class Tile>
struct FirstPages {
  int32_t ids[Tile::kStages];

  __device__ FirstPages(const DecodeParams& p, int warp) {
    const int lane = static_cast<int>(threadIdx.x & 31);
    const int32_t* from = p.first_pages +
                          (static_cast<int64_t>(blockIdx.x) * Tile::kStages * Tile::kWarps + warp) * Tile::kGranules +
                          min(lane, Tile::kGranules - 1);
#pragma unroll
    for (int stage = 0; stage < Tile::kStages; ++stage) ids[stage] = from[stage * Tile::kWarps * Tile::kGranules];
  }
};

// Walks one warp's steps of a block's range, ahead of the arithmetic, and starts their copies.
template <class Tile>
class Feed {
 public:
  __device__ Feed(const DecodeParams& p, const PlanRange& range, uint32_t ring, uint32_t barriers, int warp)
      : p_(p), range_(range), ring_(ring), barriers_(barriers), lane_(threadIdx.x & 31) {
    if (lane_ < Tile::kStages) barrier_init(barriers_ + lane_ * 8, Tile::kGranules);
    barrier_init_fence();
    __syncwarp();
    policy_ = evict_first_policy();
    item_ = range.item_begin;
    row_index_ = item_ / p.kv.num_kv_heads;
    head_ = item_ - row_index_ * p.kv.num_kv_heads;
    row_ = range.row;
    step_ = range.step_begin + warp;
  }

  // Starts the first copies as far as they are of keys older than this step of the model.
  __device__ void start_old(const FirstPages<Tile>& pages) {
#pragma unroll
    for (int stage = 0; stage < Tile::kStages; ++stage) {
      if (find_step<false>() && key_ + Tile::kStepTokens > row_.old_end) break;
      start_one(stage, pages);
    }
  }

  // Starts the first copies that have not been started.
  __device__ void start(const FirstPages<Tile>& pages) {
#pragma unroll
    for (int stage = 0; stage < Tile::kStages; ++stage) {
      if (started_ > stage) continue;
      find_step<false>();
      start_one(stage, pages);
    }
    find_step<true>();
  }

  // Starts the copy of the next step into a stage (an empty one past the range's end) and looks up the one after.
  __device__ void issue(int stage) {
    copy(stage);
    step_ += Tile::kWarps;
    find_step<true>();
  }

  // Waits for the copy that was started into stage in its round-th use.
  __device__ void wait(int stage, int round) const {
#if OCTAVO_BULK_COPY
    barrier_wait(barriers_ + stage * 8, round & 1);
#else
    copy_wait<Tile::kStages - 1>();
    __syncwarp();
#endif
  }

 private:
  __device__ void start_one(int stage, const FirstPages<Tile>& pages) {
    page_ = pages.ids[stage];
    copy(stage);
    step_ += Tile::kWarps;
    started_ = stage + 1;
  }

  __device__ void copy(int stage) {
    const uint32_t destination = ring_ + stage * Tile::kStepBytes;
#if OCTAVO_BULK_COPY
    if (lane_ < Tile::kGranules) {
      const uint32_t barrier = barriers_ + stage * 8;
      barrier_arrive_expect(barrier, needed_ ? Tile::kGranuleBytes : 0);
      if (needed_) {
        bulk_copy(destination + lane_ * Tile::kGranuleBytes, source(page_, lane_), Tile::kGranuleBytes, barrier,
                  policy_);
      }
    }
#else
    for (int granule = 0; granule < Tile::kGranules; ++granule) {
      const int page = __shfl_sync(~0u, page_, granule);
      if (!__shfl_sync(~0u, needed_, granule)) continue;
      const uint8_t* from = source(page, granule);
      for (int at = lane_ * 16; at < Tile::kGranuleBytes; at += 32 * 16) {
        copy_16(destination + granule * Tile::kGranuleBytes + at, from + at);
      }
    }
    copy_commit();
#endif
  }

  // Moves on to the item that holds step_ and, with kLoad, loads this lane's page id, long before it is needed. False
  // past the range's end.
  template <bool kLoad>
  __device__ bool find_step() {
    needed_ = false;
    int end = item_ == range_.item_last ? range_.step_end : row_.step_end;
    while (step_ >= end) {
      if (item_ >= range_.item_last) return false;
      const int over = step_ - end;
      ++item_;
      if (++head_ == p_.kv.num_kv_heads) {
        head_ = 0;
        row_ = load_row(p_.rows, ++row_index_);
      }
      step_ = row_.step_begin + over;
      end = item_ == range_.item_last ? range_.step_end : row_.step_end;
    }
    const int key = step_ * Tile::kStepTokens + lane_ * kGranuleTokens;
    if (lane_ < Tile::kGranules && key < row_.kv_end && key + kGranuleTokens > row_.kv_begin) {
      needed_ = true;
      // Not looked at before the next issue: the load's latency is hidden.
      if (kLoad) page_ = p_.page_table[static_cast<int64_t>(row_.seq) * p_.max_pages + (key >> p_.kv.page_shift)];
    }
    key_ = step_ * Tile::kStepTokens;
    copy_head_ = head_;
    return true;
  }

  __device__ const uint8_t* source(int page, int granule) const {
    const int key = key_ + granule * kGranuleTokens;
    const uint32_t last = static_cast<uint32_t>(p_.num_pages - 1);  // ids are kept inside the pool
    return p_.pages + p_.kv.granule_offset(min(static_cast<uint32_t>(page), last), copy_head_,
                                           key & ((1 << p_.kv.page_shift) - 1));
  }

  const DecodeParams& p_;
  const PlanRange& range_;
  uint32_t ring_;
  uint32_t barriers_;
  int lane_;
  uint64_t policy_;
  PlanRow row_;
  int row_index_;
  int item_;
  int head_;
  int step_;
  int page_;     // of this lane's granule of the next step
  bool needed_;  // whether that granule is copied
  int key_;
  int copy_head_;
  int started_ = 0;  // stages
};

}  // namespace octavo
