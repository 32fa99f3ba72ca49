// The general prefill kernel: mma.sync on every card, every stored format.
//
//   S[16 rows x 8 keys] = Q[16 rows x dims] K^T[dims x 8 keys]      fragments of K and V as in decode, with the two
//   O[16 rows x 8 dims] += P[16 rows x 16 keys] V[16 keys x 8 dims]   operands exchanged
//
// Four warps keep 16 or 32 rows each; K and V come through a ring of shared memory, FP8 becomes f16 in registers. Scores
// are the next product's operand without leaving their registers.
#pragma once

#include "attn/prefill_launcher.h"
#include "attn/prefill_rows.cuh"
#include "kv/stored.cuh"

namespace octavo {

template <class Stored_, int kHeadDim_>
struct PrefillMmaTile {
  using Stored = Stored_;
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr int kWarps = 4;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kRowTiles = kHeadDim <= 128 ? 2 : 1;  // 16 rows each, of a warp: as registers allow
  static constexpr int kRows = kWarps * kRowTiles * 16;
  static constexpr int kKeys = kHeadDim <= 64 ? 64 : 32;  // of a step
  static constexpr int kOctets = kKeys / 8;
  static constexpr int kGranules = kKeys / kGranuleTokens;
  static constexpr int kRowBytes = row_bytes_of(kHeadDim, Stored::kKeyBits / 8);
  static constexpr int kHalfBytes = half_granule_bytes(kRowBytes);
  static constexpr int kGranuleBytes = 2 * kHalfBytes;
  static constexpr int kChunks = kRowBytes / kChunkBytes;
  static constexpr int kPairs = (kChunks + 1) / 2;
  static constexpr int kDimSteps = kHeadDim / 16;
  static constexpr int kStageBytes = kGranules * kGranuleBytes;
  // Q lies as granules of 16 rows do.
  static constexpr int kQueryRowBytes = row_bytes_of(kHeadDim, 2);
  static constexpr int kQueryBytes = kRows * kQueryRowBytes;
  // Two blocks a multiprocessor on cards with 164 KB, one where a block may have 99 KB.
  static constexpr int kStages = kStageBytes <= 8192 ? 4 : kQueryBytes + 3 * kStageBytes <= 81 * 1024 ? 3 : 2;
  static constexpr int kSmemBytes = kQueryBytes + kStages * kStageBytes;

  static_assert(kHeadDim % 16 == 0, "the MMA takes 16 dims at a time");
  static_assert(kSmemBytes <= 99 * 1024, "the tile does not fit in shared memory");
};

template <class Tile>
class PrefillMmaBlock {
  using Stored = typename Tile::Stored;
  static constexpr bool kBf16 = Stored::kWeightParts == 2;

 public:
  __device__ PrefillMmaBlock(const PrefillParams& p, uint8_t* smem)
      : p_(p), smem_(smem), warp_(threadIdx.x >> 5), lane_(threadIdx.x & 31) {}

  __device__ void run(int item) {
    head_ = item % p_.kv.num_kv_heads;
    tile_ = p_.tiles[item / p_.kv.num_kv_heads];
    first_key_ = first_key(tile_);
    steps_ = max(tile_.kv_end - first_key_ + Tile::kKeys - 1, 0) / Tile::kKeys;
    find_pages(0);
    for (int step = 0; step < Tile::kStages - 1; ++step) issue(step);
    store_query();

    const int row = tile_.row_begin + warp_ * Tile::kRowTiles * 16;
#pragma unroll
    for (int m = 0; m < Tile::kRowTiles; ++m) rows_[m] = open_rows(p_, tile_, row + m * 16 + (lane_ >> 2));
    const int last_row = tile_.row_begin + tile_.num_rows - 1;
    const int lowest = tile_.first_position + token_of(p_, min(row, last_row));
    const int highest = tile_.first_position + token_of(p_, min(row + Tile::kRowTiles * 16 - 1, last_row));
    const float score_scale = p_.softmax_scale * key_scale(p_, head_);

    //   step:    0   1   2   3   4         stage = step % kStages
    //   copied:  ....... ahead ->          waited for in order; a stage is filled again one barrier after its use
    for (int step = 0; step < steps_; ++step) {
      copy_wait<Tile::kStages - 2>();
      __syncthreads();
      issue(step + Tile::kStages - 1);
      const int key = first_key_ + step * Tile::kKeys;
      const int stage = step % Tile::kStages;
      if (key < tile_.kv_begin || key + Tile::kKeys > tile_.kv_end) clear_values(stage, key);
      if (key > highest || row > last_row) continue;  // nothing of it is seen by this warp's rows
      take_step(stage, key, score_scale, all_visible(p_, tile_, lowest, key, Tile::kKeys));
    }
    write_rows(row);
  }

 private:
  // Ids of the pages that step's granules lie in, long before they are needed.
  __device__ void find_pages(int step) {
#pragma unroll
    for (int granule = 0; granule < Tile::kGranules; ++granule) {
      const int key = first_key_ + step * Tile::kKeys + granule * kGranuleTokens;
      if (key < tile_.kv_end) pages_[granule] = find_page(p_, tile_.seq, key);
    }
  }

  // Starts the copy of a step (nothing past the last) and looks up the pages of the next.
  __device__ void issue(int step) {
    const uint32_t stage = smem_address(smem_ + Tile::kQueryBytes + step % Tile::kStages * Tile::kStageBytes);
    if (step < steps_) {
#pragma unroll
      for (int granule = 0; granule < Tile::kGranules; ++granule) {
        const int key = first_key_ + step * Tile::kKeys + granule * kGranuleTokens;
        if (key >= tile_.kv_end) break;
        const uint8_t* from =
            p_.pages + p_.kv.granule_offset(pages_[granule], head_, key & ((1 << p_.kv.page_shift) - 1));
        for (int at = threadIdx.x * kChunkBytes; at < Tile::kGranuleBytes; at += Tile::kThreads * kChunkBytes) {
          copy_16(stage + granule * Tile::kGranuleBytes + at, from + at);
        }
      }
      find_pages(step + 1);
    }
    copy_commit();
  }

  // Q in the order of the contraction that the format's K fragments have.
  __device__ void store_query() {
    for (int i = threadIdx.x; i < Tile::kRows * Tile::kDimSteps; i += Tile::kThreads) {
      const int row = i / Tile::kDimSteps;
      const int dim_step = i - row * Tile::kDimSteps;
      uint32_t pairs[8] = {};
      if (row < tile_.num_rows) {
        const int64_t at = query_index(p_, tile_, head_, tile_.row_begin + row) + dim_step * 16;
        read_query<kBf16>(p_.q, p_.q_dtype, at, pairs);
      }
      uint4 chunks[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        chunks[half] = make_uint4(pairs[Stored::query_dims(0, half).first / 2], pairs[Stored::query_dims(1, half).first / 2],
                                  pairs[Stored::query_dims(2, half).first / 2], pairs[Stored::query_dims(3, half).first / 2]);
        *reinterpret_cast<uint4*>(smem_ + (row >> 4) * half_granule_bytes(Tile::kQueryRowBytes) +
                                  chunk_offset(Tile::kQueryRowBytes, row & 15, 2 * dim_step + half)) = chunks[half];
      }
    }
  }

  // Zeroes V of keys that no row of the tile sees: such slots may hold anything, and 0 x NaN is NaN. Whole block.
  __device__ void clear_values(int stage, int key) const {
    uint8_t* base = smem_ + Tile::kQueryBytes + stage * Tile::kStageBytes + Tile::kHalfBytes;
    for (int i = threadIdx.x; i < Tile::kKeys * Tile::kChunks; i += Tile::kThreads) {
      const int token = i / Tile::kChunks;
      const int chunk = i - token * Tile::kChunks;
      if (key + token >= tile_.kv_begin && key + token < tile_.kv_end) continue;
      *reinterpret_cast<uint4*>(base + token / kGranuleTokens * Tile::kGranuleBytes +
                                chunk_offset(Tile::kRowBytes, token & 15, chunk)) = make_uint4(0, 0, 0, 0);
    }
    __syncthreads();
  }

  __device__ void take_step(int stage, int key, float score_scale, bool visible) {
    const uint32_t at = smem_address(smem_ + Tile::kQueryBytes + stage * Tile::kStageBytes);
    const uint32_t query = smem_address(smem_) + warp_ * Tile::kRowTiles * half_granule_bytes(Tile::kQueryRowBytes);
    const int token = lane_ & 15;  // of the rows that this lane names to ldmatrix
    const int upper = lane_ >> 4;
    float s[Tile::kRowTiles][Tile::kOctets][4] = {};
#pragma unroll
    for (int pair = 0; pair < Tile::kPairs; ++pair) {
      uint32_t raw[Tile::kGranules][4];
#pragma unroll
      for (int granule = 0; granule < Tile::kGranules; ++granule) {
        ldmatrix_x4(raw[granule], at + granule * Tile::kGranuleBytes +
                                      chunk_offset(Tile::kRowBytes, token, min(2 * pair + upper, Tile::kChunks - 1)));
      }
#pragma unroll
      for (int i = 0; i < Stored::kKeySteps; ++i) {
        const int dim_step = pair * Stored::kKeySteps + i;
        if (dim_step >= Tile::kDimSteps) break;
        uint32_t a[Tile::kRowTiles][4];
#pragma unroll
        for (int m = 0; m < Tile::kRowTiles; ++m) {
          ldmatrix_x4(a[m], query + m * half_granule_bytes(Tile::kQueryRowBytes) +
                                chunk_offset(Tile::kQueryRowBytes, token, 2 * dim_step + upper));
        }
#pragma unroll
        for (int granule = 0; granule < Tile::kGranules; ++granule) {
          uint32_t b[4];
          Stored::key_fragment(raw[granule], i, b);
#pragma unroll
          for (int m = 0; m < Tile::kRowTiles; ++m) {
            Stored::mma(s[m][2 * granule], a[m], b[0], b[2]);
            Stored::mma(s[m][2 * granule + 1], a[m], b[1], b[3]);
          }
        }
      }
    }

    uint32_t weights[Tile::kRowTiles][Tile::kGranules][4];
#pragma unroll
    for (int m = 0; m < Tile::kRowTiles; ++m) {
      const float to_log2 = cap_scores(p_, score_scale, s[m]);
      if (!visible) hide_keys(p_, rows_[m], key, s[m]);
      float factor[2];
      if (weigh(to_log2, rows_[m], s[m], factor)) rescale_output(factor, o_[m]);
#pragma unroll
      for (int granule = 0; granule < Tile::kGranules; ++granule) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* from = s[m][2 * granule + (i >> 1)] + 2 * (i & 1);
          weights[m][granule][i] = Stored::pack(from[0], from[1]);
        }
      }
    }

#pragma unroll
    for (int pair = 0; pair < Tile::kPairs; ++pair) {
#pragma unroll
      for (int granule = 0; granule < Tile::kGranules; ++granule) {
        uint32_t raw[4];
        ldmatrix_x4_trans(raw, at + granule * Tile::kGranuleBytes + Tile::kHalfBytes +
                                   chunk_offset(Tile::kRowBytes, token, min(2 * pair + upper, Tile::kChunks - 1)));
#pragma unroll
        for (int i = 0; i < Stored::kValueSteps; ++i) {
          const int dim_step = pair * Stored::kValueSteps + i;
          if (dim_step >= Tile::kDimSteps) break;
          uint32_t b[4];
          Stored::value_fragment(raw, i, b);
#pragma unroll
          for (int m = 0; m < Tile::kRowTiles; ++m) {
            Stored::mma(o_[m][2 * dim_step], weights[m][granule], b[0], b[2]);
            Stored::mma(o_[m][2 * dim_step + 1], weights[m][granule], b[1], b[3]);
          }
        }
      }
    }
  }

  // Column c of an MMA step's lower octet is dim output_dims(c).first, of the upper one .second.
  __device__ void write_rows(int first_row) const {
    const int t = lane_ & 3;
#pragma unroll
    for (int m = 0; m < Tile::kRowTiles; ++m) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = first_row + m * 16 + r * 8 + (lane_ >> 2);
        const RowEnd end =
            close_row(p_, tile_, head_, row, rows_[m].m[r], rows_[m].l[r], value_scale(p_, head_));
        if (end.index < 0) continue;
#pragma unroll
        for (int d = 0; d < Tile::kDimSteps; ++d) {
          const float x = o_[m][2 * d][2 * r] * end.factor, y = o_[m][2 * d][2 * r + 1] * end.factor;
          const float z = o_[m][2 * d + 1][2 * r] * end.factor, w = o_[m][2 * d + 1][2 * r + 1] * end.factor;
          if constexpr (Stored::kValueBits == 8) {  // dims 4t, 4t+2 and 4t+1, 4t+3
            write_pair(p_, end.index + d * 16 + 4 * t, x, z);
            write_pair(p_, end.index + d * 16 + 4 * t + 2, y, w);
          } else {
            write_pair(p_, end.index + d * 16 + 2 * t, x, y);
            write_pair(p_, end.index + d * 16 + 8 + 2 * t, z, w);
          }
        }
      }
    }
  }

  const PrefillParams& p_;
  uint8_t* smem_;
  int warp_;
  int lane_;
  int head_;
  PrefillTile tile_;
  int first_key_;
  int steps_;
  int32_t pages_[Tile::kGranules];
  RowPair rows_[Tile::kRowTiles];
  float o_[Tile::kRowTiles][2 * Tile::kDimSteps][4] = {};
};

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 2) prefill_mma_kernel(const __grid_constant__ PrefillParams p) {
  extern __shared__ __align__(1024) uint8_t smem[];
  gpu_wait_for_predecessor();
  gpu_release_successor();
  const int item = static_cast<int>(blockIdx.x);
  if (item >= *p.num_tiles * p.kv.num_kv_heads) return;
  PrefillMmaBlock<Tile>(p, smem).run(item);
}

template <class Tile>
void launch_prefill_mma(const PrefillParams& params, int num_items, GpuStream stream, bool overlap) {
  gpu_allow_smem(prefill_mma_kernel<Tile>, Tile::kSmemBytes);
  gpu_launch(prefill_mma_kernel<Tile>, num_items, Tile::kThreads, Tile::kSmemBytes, stream, overlap, params);
}

template <class Stored, int kHeadDim>
PrefillLauncher prefill_mma_launcher() {
  using Tile = PrefillMmaTile<Stored, kHeadDim>;
  return {launch_prefill_mma<Tile>, Tile::kRows};
}

template <class Stored>
PrefillLauncher find_prefill_mma(int head_dim) {
  switch (head_dim) {
    case 64:
      return prefill_mma_launcher<Stored, 64>();
    case 80:
      return prefill_mma_launcher<Stored, 80>();
    case 96:
      return prefill_mma_launcher<Stored, 96>();
    case 112:
      return prefill_mma_launcher<Stored, 112>();
    case 128:
      return prefill_mma_launcher<Stored, 128>();
    case 192:
      return prefill_mma_launcher<Stored, 192>();
    case 256:
      return prefill_mma_launcher<Stored, 256>();
    default:
      return {};
  }
}

}  // namespace octavo
