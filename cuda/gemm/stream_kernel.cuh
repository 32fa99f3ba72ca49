// The streaming kernel. W is the MMA's first operand, 16 rows a warp, and the tokens are its narrow side:
//
//   y^T[128 rows x tokens] = W[128 rows x step] x^T[step x tokens], summed over the steps of a tile
//
// Copies fill a ring of stages ahead of the arithmetic, across the edges of tiles. Weights are constant, so the first
// stages' are fetched before the kernel's predecessor has finished.
#pragma once

#include "arch/hopper.cuh"
#include "arch/warpgroup_mma.cuh"
#include "gemm/stream_fragment.cuh"
#include "gemm/stream_exchange.cuh"

namespace octavo {

// Walks the steps of a block of a plan, tile by tile.
struct StreamCursor {
  int tile;
  int step;

  __device__ StreamCursor(const StreamPlan& plan, int block)
      : tile(block / plan.split), groups_(plan.num_groups) {
    const int rank = block - tile * plan.split;
    step = begin_ = plan.tile_steps * rank / plan.split;
    end_ = plan.tile_steps * (rank + 1) / plan.split;
    tiles_ = tile < plan.num_tiles ? (plan.num_tiles - tile + groups_ - 1) / groups_ : 0;
  }
  __device__ void advance() {
    if (++step == end_) step = begin_, tile += groups_;
  }
  __device__ int steps_per_tile() const { return end_ - begin_; }
  __device__ int num_tiles() const { return tiles_; }
  __device__ int num_steps() const { return tiles_ * (end_ - begin_); }

 private:
  int groups_;
  int begin_;
  int end_;
  int tiles_;
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

  // Copies all of the block's steps.
  __device__ void run() const {
    prefetch_tensor_map(p_.w_map);
    prefetch_tensor_map(p_.x_map);
    const uint64_t weight_policy = evict_first_policy();
    const uint64_t x_policy = evict_last_policy();
    StreamCursor weights(p_.plan, blockIdx.x);
    StreamCursor x = weights;
    const int steps = weights.num_steps();
    const int early = min(steps, Tile::kStages);
    for (int i = 0; i < early; ++i, weights.advance()) copy_weights(i, weights, weight_policy);
    gpu_wait_for_predecessor();
    for (int i = 0; i < early; ++i, x.advance()) copy_x(i, x, x_policy);
    int index = 0;
    int round = 0;
    for (int i = early; i < steps; ++i, weights.advance()) {
      barrier_wait(empty(index), round & 1);
      copy_weights(index, weights, weight_policy);
      copy_x(index, weights, x_policy);
      if (++index == Tile::kStages) index = 0, ++round;
    }
    gpu_release_successor();  // whose copies then queue behind the last of these, not among them
  }

 private:
  __device__ void copy_weights(int index, const StreamCursor& at, uint64_t policy) const {
    barrier_arrive_expect(full(index), Tile::kStageBytes);
    const int column = at.step * Tile::kStepCols;
    if (p_.plan.gate != 0)
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

// An operand of a stage: rows of 128 bytes, all of the contracted axis that it has. 32 bytes are a step: 2 units.
__device__ inline uint64_t stream_descriptor(uint32_t address) { return wgmma_descriptor(address, 8 * 128, 16); }

// One stage on a warpgroup. weights: the warpgroup's 64 rows; x: the stage's panels.
template <class Tile>
__device__ inline void multiply_stage(uint32_t weights, uint32_t x, bool accumulate, float (&sums)[Tile::kSums]) {
  using Mma = WarpgroupMma<Tile::kColumns>;
  wgmma_fence();
  if constexpr (Tile::kPanels == 1) {
    const uint64_t a = stream_descriptor(weights);
    const uint64_t b = stream_descriptor(x);
#pragma unroll
    for (int k = 0; k < 4; ++k) {  // 32 bytes of each row
      const bool add = accumulate || k > 0;
      if constexpr (Tile::kWeight == OCTAVO_BF16) Mma::bf16_shared(sums, a + 2 * k, b + 2 * k, add);
      if constexpr (Tile::kWeight == OCTAVO_F16) Mma::f16_shared(sums, a + 2 * k, b + 2 * k, add);
      if constexpr (Tile::kWeight == OCTAVO_F8_E4M3) Mma::e4m3_shared(sums, a + 2 * k, b + 2 * k, add);
    }
    wgmma_commit();
  } else {
    const int lane = threadIdx.x & 31;
    const uint32_t rows = weights + ((threadIdx.x >> 5) & 3) * 16 * 128;
#pragma unroll
    for (int quarter = 0; quarter < 4; ++quarter) {  // converted while the one before is multiplied
      uint32_t a[2][4];
#pragma unroll
      for (int k = 0; k < 2; ++k) load_e4m3_fragment<Tile::kActivation>(rows, 2 * quarter + k, lane, a[k]);
      const uint64_t b = stream_descriptor(x + (quarter >> 1) * Tile::kPanelBytes) + (quarter & 1) * 4;
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const bool add = accumulate || quarter + k > 0;
        if constexpr (Tile::kActivation == OCTAVO_BF16) Mma::bf16_registers(sums, a[k], b + 2 * k, add);
        if constexpr (Tile::kActivation == OCTAVO_F16) Mma::f16_registers(sums, a[k], b + 2 * k, add);
      }
      wgmma_commit();
      wgmma_wait<1>();
    }
  }
  wgmma_wait<0>();
}

// --- Elsewhere: all warps copy and multiply -----------------------------------------------------------------------

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
    if (p_.plan.gate == 0) {
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
      : p_(p), smem_(smem), warp_(threadIdx.x >> 5), lane_(threadIdx.x & 31), exchange_(p, warp_, lane_) {}

  __device__ void run() {
    if constexpr (Tile::kHopper)
      run_on_hopper();
    else
      run_elsewhere();
  }

 private:
  __device__ void run_on_hopper() {
    const TensorFeed<Tile> feed(p_, smem_);
    if (threadIdx.x == 0) feed.init();
    __syncthreads();
    if (warp_ == kStreamWarps) {
      if (lane_ == 0) feed.run();
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
  }

  __device__ void run_elsewhere() {
    const AsyncFeed<Tile> feed(p_, smem_);
    StreamCursor ahead = fill(feed);
    const int steps = ahead.num_steps();
    walk([&](int step, float(&sums)[Tile::kSums], bool accumulate) {
      if (!accumulate) {
#pragma unroll
        for (int i = 0; i < Tile::kSums; ++i) sums[i] = 0.0f;
      }
      copy_wait<Tile::kStages - 2>();
      __syncthreads();  // the stage is there for all, and all have left the one before
      if (step + Tile::kStages - 1 < steps) {
        const int free = stage_ == 0 ? Tile::kStages - 1 : stage_ - 1;
        feed.copy_weights(free, ahead);
        feed.copy_x(free, ahead);
        ahead.advance();
      }
      copy_commit();
      const uint32_t stage = feed.stage(stage_);
      multiply_stage_by_warp<Tile>(stage + warp_ * 16 * 128, stage + Tile::kWeightBytes, sums);
      if (++stage_ == Tile::kStages) stage_ = 0;
    });
  }

  // Starts the copies of all stages but the last: weights first, x when the predecessor has finished.
  __device__ StreamCursor fill(const AsyncFeed<Tile>& feed) const {
    StreamCursor weights(p_.plan, blockIdx.x);
    StreamCursor x = weights;
    const int early = min(weights.num_steps(), Tile::kStages - 1);
    for (int i = 0; i < early; ++i, weights.advance()) feed.copy_weights(i, weights);
    gpu_wait_for_predecessor();
    gpu_release_successor();
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
  template <class Take>
  __device__ void walk(Take&& take) {
    const StreamCursor first(p_.plan, blockIdx.x);
    const int steps = first.steps_per_tile();
    for (int i = 0; i < first.num_tiles(); ++i) {
      const int tile = first.tile + i * p_.plan.num_groups;
      float sums[Tile::kSums];
      if (p_.plan.split > 1) {
        for (int k = 0; k < steps; ++k) take(i * steps + k, sums, k > 0);
        exchange_.finish(tile, sums);
      } else {
        const StreamRows rows = load_stream_rows(p_, tile, warp_, lane_);
        for (int k = 0; k < steps; ++k) take(i * steps + k, sums, k > 0);
        finish_alone(rows, sums);
      }
    }
  }

  __device__ void finish_alone(const StreamRows& rows, const float (&sums)[Tile::kSums]) const {
#pragma unroll
    for (int j = 0; j < Tile::kColumns / 8; ++j) {
      if (j * 8 >= p_.m) break;
      finish_unit(p_, load_unit(p_, rows, j * 8, lane_),
                  make_float4(sums[4 * j], sums[4 * j + 1], sums[4 * j + 2], sums[4 * j + 3]), lane_);
    }
  }

  const StreamParams& p_;
  uint32_t smem_;
  int warp_;
  int lane_;
  StreamExchange<Tile> exchange_;
  int stage_ = 0;
  int round_ = 0;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
constexpr bool kStreamCompiledHopper = true;
#else
constexpr bool kStreamCompiledHopper = false;
#endif

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    stream_kernel(const __grid_constant__ StreamParams p) {
  if constexpr (Tile::kHopper == kStreamCompiledHopper) {
    extern __shared__ __align__(1024) uint8_t smem[];
    StreamBlock<Tile>(p, smem_address(smem)).run();
  }
}

}  // namespace octavo
