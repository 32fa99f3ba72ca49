// The streaming kernel. W is the MMA's first operand, 16 rows a warp, and the tokens are its narrow side:
//
//   y^T[128 rows x tokens] = W[128 rows x step] x^T[step x tokens], summed over the steps of a tile
//
// Copies fill a ring of stages ahead of the arithmetic, across the edges of tiles. Weights are constant, so the first
// stages' are fetched before the kernel's predecessor has finished.
#pragma once

#include "arch/hopper.cuh"
#include "gemm/warpgroup_mma.cuh"
#include "gemm/stream_fragment.cuh"
#include "gemm/stream_merge.cuh"

namespace octavo {

// A block's steps in order, as (tile, step of the tile).
struct StreamCursor {
  int tile;
  int step;
  int tile_steps;

  __device__ StreamCursor(const StreamPlan& plan, int at)
      : tile(at / plan.tile_steps), step(at - tile * plan.tile_steps), tile_steps(plan.tile_steps) {}
  __device__ void advance() {
    if (++step == tile_steps) step = 0, ++tile;
  }
};

// --- Hopper: one lane of a ninth warp copies, two warpgroups multiply ---------------------------------------------

template <class Tile>
class TensorFeed {
 public:
  __device__ TensorFeed(const StreamParams& p, uint32_t smem) : p_(p), smem_(smem) {}

  __device__ uint32_t stage(int index) const { return smem_ + index * Tile::kStageBytes; }
  __device__ uint32_t full(int index) const { return smem_ + Tile::kBarriersAt + index * 8; }
  __device__ uint32_t empty(int index) const { return full(Tile::kStages + index); }

  __device__ void init() const {
    for (int i = 0; i < Tile::kStages; ++i) {
      barrier_init(full(i), 1);
      barrier_init(empty(i), kStreamWarps);
    }
    barrier_init_fence();
  }

  // Copies all of steps [begin, end).
  __device__ void run(int begin, int end) const {
    prefetch_tensor_map(p_.w_map);
    prefetch_tensor_map(p_.x_map);
    const uint64_t weight_policy = evict_first_policy();
    const uint64_t x_policy = evict_last_policy();
    const int early = min(end - begin, Tile::kStages);
    StreamCursor weights(p_.plan, begin);
    for (int i = 0; i < early; ++i, weights.advance()) copy_weights(i, weights, weight_policy);
    gpu_wait_for_predecessor();
    StreamCursor x(p_.plan, begin);
    for (int i = 0; i < early; ++i, x.advance()) copy_x(i, x, x_policy);
    int index = 0;
    int round = 0;
    for (int at = begin + early; at < end; ++at, weights.advance()) {
      barrier_wait(empty(index), round & 1);
      copy_weights(index, weights, weight_policy);
      copy_x(index, weights, x_policy);
      if (++index == Tile::kStages) index = 0, ++round;
    }
    gpu_release_successor();
  }

 private:
  __device__ void copy_weights(int index, const StreamCursor& at, uint64_t policy) const {
    barrier_arrive_expect(full(index), Tile::kStageBytes);
    const int column = at.step * Tile::kStepCols;
    if (is_gate(p_))
      tensor_copy_4d(stage(index), p_.w_map, column, 0, 0, at.tile * (kStreamRows / 16), full(index), policy);
    else
      tensor_copy_2d(stage(index), p_.w_map, column, at.tile * kStreamRows, full(index), policy);
  }

  __device__ void copy_x(int index, const StreamCursor& at, uint64_t policy) const {
#pragma unroll
    for (int panel = 0; panel < Tile::kPanels; ++panel) {
      tensor_copy_2d(stage(index) + Tile::kWeightBytes + panel * Tile::kPanelBytes, p_.x_map,
                     at.step * Tile::kStepCols + panel * (Tile::kStepCols / Tile::kPanels), 0, full(index), policy);
    }
  }

  const StreamParams& p_;
  uint32_t smem_;
};

// One stage on a warpgroup. weights: the warpgroup's 64 rows; x: the stage's panels.
template <class Tile>
__device__ inline void multiply_stage(uint32_t weights, uint32_t x, bool accumulate, float (&sums)[Tile::kSums]) {
  using Mma = WarpgroupMma<Tile::kColumns>;
  warpgroup_fence();
  if constexpr (Tile::kPanels == 1) {
    const uint64_t a = matrix_descriptor(weights);
    const uint64_t b = matrix_descriptor(x);
#pragma unroll
    for (int k = 0; k < 4; ++k) {  // 32 bytes of each row
      const bool add = accumulate || k > 0;
      if constexpr (Tile::kWeight == OCTAVO_BF16) Mma::bf16_shared(sums, a + 2 * k, b + 2 * k, add);
      if constexpr (Tile::kWeight == OCTAVO_F16) Mma::f16_shared(sums, a + 2 * k, b + 2 * k, add);
      if constexpr (Tile::kWeight == OCTAVO_F8_E4M3) Mma::e4m3_shared(sums, a + 2 * k, b + 2 * k, add);
    }
    warpgroup_commit();
  } else {
    const int lane = threadIdx.x & 31;
    const uint32_t rows = weights + ((threadIdx.x >> 5) & 3) * 16 * 128;
#pragma unroll
    for (int quarter = 0; quarter < 4; ++quarter) {  // converted while the one before is multiplied
      uint32_t a[2][4];
#pragma unroll
      for (int k = 0; k < 2; ++k) load_e4m3_fragment<Tile::kActivation>(rows, 2 * quarter + k, lane, a[k]);
      const uint64_t b = matrix_descriptor(x + (quarter >> 1) * Tile::kPanelBytes) + (quarter & 1) * 4;
      warpgroup_fence();
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const bool add = accumulate || quarter + k > 0;
        if constexpr (Tile::kActivation == OCTAVO_BF16) Mma::bf16_registers(sums, a[k], b + 2 * k, add);
        if constexpr (Tile::kActivation == OCTAVO_F16) Mma::f16_registers(sums, a[k], b + 2 * k, add);
      }
      warpgroup_commit();
      warpgroup_wait<1>();
    }
  }
  warpgroup_wait<0>();
}

// --- Elsewhere: all warps copy and multiply -----------------------------------------------------------------------

__device__ inline void copy_16_or_zero(uint32_t destination, const void* source, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(destination), "l"(source), "r"(valid ? 16 : 0)
               : "memory");
}

template <class Tile>
class AsyncFeed {
 public:
  __device__ AsyncFeed(const StreamParams& p, uint32_t smem) : p_(p), smem_(smem) {}

  __device__ uint32_t stage(int index) const { return smem_ + index * Tile::kStageBytes; }

  __device__ void copy_weights(int index, const StreamCursor& at) const {
    constexpr int kElements = 16 / Tile::kWeightElement;
    for (int i = threadIdx.x; i < kStreamRows * 8; i += kStreamThreads) {
      const int line = i >> 3;
      const int column = at.step * Tile::kStepCols + (i & 7) * kElements;
      const int row = matrix_row(at.tile, line);
      const bool valid = row >= 0 && column < p_.cols;
      const int64_t element = valid ? static_cast<int64_t>(row) * p_.cols + column : 0;
      copy_16_or_zero(stage(index) + place(line, i & 7),
                      static_cast<const uint8_t*>(p_.w) + element * Tile::kWeightElement, valid);
    }
  }

  __device__ void copy_x(int index, const StreamCursor& at) const {
    constexpr int kElements = 16 / Tile::kXElement;
    for (int i = threadIdx.x; i < Tile::kPanels * Tile::kColumns * 8; i += kStreamThreads) {
      const int panel = i / (Tile::kColumns * 8);
      const int token = (i >> 3) % Tile::kColumns;
      const int column = at.step * Tile::kStepCols + (panel * 8 + (i & 7)) * kElements;
      const bool valid = token < p_.m && column < p_.cols;
      const int64_t element = valid ? token * p_.x_stride + column : 0;
      copy_16_or_zero(stage(index) + Tile::kWeightBytes + panel * Tile::kPanelBytes + place(token, i & 7),
                      static_cast<const uint8_t*>(p_.x) + element * Tile::kXElement, valid);
    }
  }

 private:
  __device__ static uint32_t place(int line, int chunk) { return line * 128 + ((chunk ^ (line & 7)) << 4); }

  // The row of W at a line of a tile, or -1.
  __device__ int matrix_row(int tile, int line) const {
    if (!is_gate(p_)) {
      const int row = tile * kStreamRows + line;
      return row < p_.rows ? row : -1;
    }
    const int row = tile * (kStreamRows / 2) + (line >> 4) * 8 + (line & 7);
    if (row >= p_.rows / 2) return -1;
    return (line & 8) != 0 ? row + p_.rows / 2 : row;
  }

  const StreamParams& p_;
  uint32_t smem_;
};

// One stage on a warp: 16 rows and all tokens.
template <class Tile>
__device__ inline void multiply_stage_by_warp(uint32_t rows, uint32_t x, float (&sums)[Tile::kSums]) {
  constexpr int kPairs = 2 * Tile::kPanels;  // of k16 steps
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int pair = 0; pair < kPairs; ++pair) {
    uint32_t a[2][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if constexpr (Tile::kWeight == OCTAVO_F8_E4M3)
        load_e4m3_fragment<Tile::kActivation>(rows, 2 * pair + i, lane, a[i]);
      else
        load_16_bit_fragment(rows, 2 * pair + i, lane, a[i]);
    }
    // Of 8 tokens, four 8 x 8 blocks along the columns: both operands' halves of two k16 steps.
    const uint32_t panel = x + (pair >> 1) * Tile::kPanelBytes;
    const int chunk = (pair & 1) * 4 + (lane >> 3);
#pragma unroll
    for (int j = 0; j < Tile::kColumns / 8; ++j) {
      uint32_t b[4];
      ldmatrix_x4(b, panel + (j * 8 + (lane & 7)) * 128 + ((chunk ^ (lane & 7)) << 4));
      float(&d)[4] = *reinterpret_cast<float(*)[4]>(&sums[4 * j]);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if constexpr (Tile::kActivation == OCTAVO_BF16)
          mma_bf16(d, a[i], b[2 * i], b[2 * i + 1]);
        else
          mma_f16(d, a[i], b[2 * i], b[2 * i + 1]);
      }
    }
  }
}

// --- Both ---------------------------------------------------------------------------------------------------------

template <class Tile>
class StreamBlock {
 public:
  __device__ StreamBlock(const StreamParams& p, uint32_t smem)
      : p_(p),
        smem_(smem),
        warp_(threadIdx.x >> 5),
        lane_(threadIdx.x & 31),
        begin_(p.plan.begin(blockIdx.x)),
        end_(p.plan.begin(blockIdx.x + 1)) {}

  __device__ void run() {
    if constexpr (Tile::kHopper) {
      const TensorFeed<Tile> feed(p_, smem_);
      if (threadIdx.x == 0) feed.init();
      __syncthreads();
      if (warp_ == kStreamWarps) {
        if (lane_ == 0) feed.run(begin_, end_);
        return;
      }
      gpu_wait_for_predecessor();
      walk([&](int, float(&sums)[Tile::kSums], bool accumulate) {
        barrier_wait(feed.full(stage_), round_ & 1);
        const uint32_t at = feed.stage(stage_);
        multiply_stage<Tile>(at + (warp_ >> 2) * (Tile::kWeightBytes / 2), at + Tile::kWeightBytes, accumulate, sums);
        if (lane_ == 0) barrier_arrive(feed.empty(stage_));
        if (++stage_ == Tile::kStages) stage_ = 0, ++round_;
      });
    } else {
      const AsyncFeed<Tile> feed(p_, smem_);
      StreamCursor ahead = fill(feed);
      walk([&](int at, float(&sums)[Tile::kSums], bool accumulate) {
        if (!accumulate) {
#pragma unroll
          for (int i = 0; i < Tile::kSums; ++i) sums[i] = 0.0f;
        }
        copy_wait<Tile::kStages - 2>();
        __syncthreads();  // the stage is there for all, and all have left the one before
        const int free = stage_ == 0 ? Tile::kStages - 1 : stage_ - 1;
        if (at + Tile::kStages - 1 < end_) {
          feed.copy_weights(free, ahead);
          feed.copy_x(free, ahead);
          ahead.advance();
        } else {
          gpu_release_successor();
        }
        copy_commit();
        const uint32_t stage = feed.stage(stage_);
        multiply_stage_by_warp<Tile>(stage + warp_ * 16 * 128, stage + Tile::kWeightBytes, sums);
        if (++stage_ == Tile::kStages) stage_ = 0;
      });
    }
  }

 private:
  // Starts the copies of all stages but the last: weights first, x when the predecessor has finished.
  __device__ StreamCursor fill(const AsyncFeed<Tile>& feed) const {
    const int early = min(end_ - begin_, Tile::kStages - 1);
    StreamCursor weights(p_.plan, begin_);
    for (int i = 0; i < early; ++i, weights.advance()) feed.copy_weights(i, weights);
    gpu_wait_for_predecessor();
    StreamCursor x(p_.plan, begin_);
    for (int i = 0; i < Tile::kStages - 1; ++i) {
      if (i < early) {
        feed.copy_x(i, x);
        x.advance();
      }
      copy_commit();
    }
    return weights;
  }

  // Takes the block's steps tile by tile; take(step, sums, accumulate) adds one.
  //
  //   range:  | tail of tile 3 | tile 4 | head of tile 5 |      whole tiles are finished at once, the others' parts
  //             stored, slot 0            stored, slot 1        stored and merged when the range is done
  template <class Take>
  __device__ void walk(Take&& take) {
    const StreamMerge<Tile> merge(p_, warp_, lane_);
    int head = -1;  // tiles of which this block has a part
    int tail = -1;
    for (int at = begin_; at < end_;) {
      const StreamCursor cursor(p_.plan, at);
      const int steps = min(p_.plan.tile_steps - cursor.step, end_ - at);
      float sums[Tile::kSums];
      for (int i = 0; i < steps; ++i) take(at + i, sums, i > 0);
      at += steps;
      if (steps < p_.plan.tile_steps) {
        merge.store(cursor.tile, sums);
        (at == begin_ + steps ? head : tail) = cursor.tile;
      } else {
        finish_tile(cursor.tile, sums);
      }
    }
    if (head >= 0) merge.merge(head);
    if (tail >= 0) merge.merge(tail);
  }

  __device__ void finish_tile(int tile, const float (&sums)[Tile::kSums]) const {
    const StreamRowPair rows = stream_rows(p_, tile, warp_, lane_);
#pragma unroll
    for (int j = 0; j < Tile::kColumns / 8; ++j) {
      if (j * 8 >= p_.m) break;
      finish_sums(p_, rows, j * 8, make_float4(sums[4 * j], sums[4 * j + 1], sums[4 * j + 2], sums[4 * j + 3]), lane_);
    }
  }

  const StreamParams& p_;
  uint32_t smem_;
  int warp_;
  int lane_;
  int begin_;
  int end_;
  int stage_ = 0;
  int round_ = 0;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
constexpr bool kStreamCompiledHopper = true;
#else
constexpr bool kStreamCompiledHopper = false;
#endif

template <class Tile>
__global__ void __launch_bounds__(Tile::kBoundThreads, Tile::kBlocksPerSm)
    stream_kernel(const __grid_constant__ StreamParams p) {
  if constexpr (Tile::kHopper == kStreamCompiledHopper) {
    extern __shared__ __align__(1024) uint8_t smem[];
    StreamBlock<Tile>(p, smem_address(smem)).run();
  }
}

}  // namespace octavo
