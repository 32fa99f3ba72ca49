// The fast prefill kernel of compute capability 9.0, for 16-bit granules whose rows are whole column blocks (head_dim 64,
// 128, 192, 256): warpgroup products fed by bulk copies.
//
//   S[64 rows x keys] = Q K^T     Q and K from shared memory    a granule's column block is two of the tensor core's
//   O[64 rows x dims] += P V      P from registers, V from it   swizzled 8 x 128-byte blocks: copies need no reordering
//
// Blocks stay and take (tile, kv head) items in turn. Warpgroup 0 produces: warp 0 brings K and V, warps 1 to 3 the next
// item's Q. Warpgroups 1 and 2 keep 64 rows each; while one computes its softmax the other's products run (named
// barriers), and a warpgroup's next scores run beside its previous weights' product.
#pragma once

#include "arch/wgmma.cuh"
#include "attn/prefill_launcher.h"
#include "attn/prefill_rows.cuh"
#include "attn/prefill_wgmma_tile.h"

namespace octavo {

// A ring's position: the stage and the parity of the times it has come round.
template <int kStages>
struct RingPosition {
  int stage = 0;
  uint32_t parity = 0;

  __device__ void advance() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
};

template <class Tile>
class PrefillWgmmaBlock {
  using Position = RingPosition<Tile::kStages>;

 public:
  __device__ PrefillWgmmaBlock(const PrefillParams& p, uint8_t* smem)
      : p_(p), smem_(smem), base_(smem_address(smem)) {}

  __device__ void run() {
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < Tile::kStages; ++stage) {
        barrier_init(keys_full(stage), 1);
        barrier_init(values_full(stage), 1);
        barrier_init(keys_empty(stage), 4 * Tile::kConsumers);
        barrier_init(values_empty(stage), 4 * Tile::kConsumers);
      }
      for (int w = 0; w < Tile::kConsumers; ++w) {
        barrier_init(query_full(w), Tile::kLoaderThreads);
        barrier_init(query_empty(w), 4);
      }
      barrier_init(tail_barrier(), 1);
      barrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
      lower_registers<Tile::kProducerRegisters>();
      if (threadIdx.x < 32)
        produce_keys();
      else
        produce_queries(threadIdx.x - 32);
    } else {
      raise_registers<Tile::kConsumerRegisters>();
      consume(static_cast<int>(threadIdx.x >> 7) - 1);
    }
  }

 private:
  // Loaded when asked for: registers are few.
  __device__ int num_items() const { return *p_.num_tiles * p_.kv.num_kv_heads; }

  // Items go to blocks there and back, so that all get about the same share of the long ones, which come first.
  __device__ int item_of(int round) const {
    const int blocks = static_cast<int>(gridDim.x);
    const int b = static_cast<int>(blockIdx.x);
    return round * blocks + ((round & 1) != 0 ? blocks - 1 - b : b);
  }

  __device__ PrefillTile load_tile(int item) const {
    PrefillTile tile;
    const int4* from = reinterpret_cast<const int4*>(p_.tiles + item / p_.kv.num_kv_heads);
    reinterpret_cast<int4*>(&tile)[0] = from[0];
    reinterpret_cast<int4*>(&tile)[1] = from[1];
    return tile;
  }

  __device__ static int count_steps(const PrefillTile& tile) {
    return max(tile.kv_end - first_key(tile) + Tile::kKeys - 1, 0) / Tile::kKeys;
  }

  __device__ uint32_t barrier(int index) const { return base_ + Tile::kBarrierAt + index * 8; }
  __device__ uint32_t keys_full(int stage) const { return barrier(stage); }
  __device__ uint32_t keys_empty(int stage) const { return barrier(Tile::kStages + stage); }
  __device__ uint32_t values_full(int stage) const { return barrier(2 * Tile::kStages + stage); }
  __device__ uint32_t values_empty(int stage) const { return barrier(3 * Tile::kStages + stage); }
  __device__ uint32_t query_full(int w) const { return barrier(4 * Tile::kStages + w); }
  __device__ uint32_t query_empty(int w) const { return barrier(4 * Tile::kStages + Tile::kConsumers + w); }
  __device__ uint32_t tail_barrier() const { return barrier(4 * Tile::kStages + 2 * Tile::kConsumers); }
  __device__ uint32_t keys_at(int stage) const { return base_ + Tile::kKeysAt + stage * Tile::kStageBytes; }
  __device__ uint32_t values_at(int stage) const { return base_ + Tile::kValuesAt + stage * Tile::kStageBytes; }

  // --- Producer: keys and values --------------------------------------------------------------------------------

  // Where the K half of the granule of a key lies; V's follows.
  __device__ const uint8_t* granule_source(const PrefillTile& tile, int head, int key) const {
    if (tile.scratch != kNoScratch) {
      return p_.scratch + head * p_.scratch_head_bytes +
             static_cast<int64_t>(tile.scratch + key / kGranuleTokens) * (2 * Tile::kHalfBytes);
    }
    return p_.pages + p_.kv.granule_offset(find_page(p_, tile.seq, key), head, key & ((1 << p_.kv.page_shift) - 1));
  }

  // Lane i < kGranules knows where granule i of the step lies.
  __device__ void produce_keys() {
    const int lane = static_cast<int>(threadIdx.x);
    const uint64_t policy = evict_normal_policy();
    Position keys, values;
    uint32_t tail_parity = 0;
    for (int round = 0; round * static_cast<int>(gridDim.x) < num_items(); ++round) {
      const int item = item_of(round);
      if (item >= num_items()) continue;
      const PrefillTile tile = load_tile(item);
      const int head = item % p_.kv.num_kv_heads;
      const int begin = first_key(tile);
      const int steps = count_steps(tile);
      const auto source_of = [&](int step) -> const uint8_t* {
        const int key = begin + step * Tile::kKeys + lane * kGranuleTokens;
        return lane < Tile::kGranules && key < tile.kv_end ? granule_source(tile, head, key) : nullptr;
      };
      const uint8_t* source = source_of(0);
      for (int step = 0; step < steps; ++step) {
        const int key = begin + step * Tile::kKeys;
        const uint8_t* next = source_of(step + 1);
        const int granules = min((tile.kv_end - key + kGranuleTokens - 1) / kGranuleTokens, Tile::kGranules);
        copy_keys(keys.stage, keys.parity, granules, source, policy);
        const bool whole = key >= tile.kv_begin && key + Tile::kKeys <= tile.kv_end;
        copy_values(values.stage, values.parity, granules, source, policy,
                    whole ? values_full(values.stage) : tail_barrier());
        if (!whole) {
          barrier_wait(tail_barrier(), tail_parity);
          tail_parity ^= 1;
          clear_values(values.stage, key, tile);
          if (lane == 0) barrier_arrive(values_full(values.stage));
        }
        keys.advance();
        values.advance();
        source = next;
      }
    }
  }

  //   piece:    granule 0, block 0 | granule 0, block 1 | granule 1, block 0 | ..     one a lane
  //   goes to:  block 0: granule 0, 1, ..  | block 1: granule 0, 1, ..
  __device__ void copy_keys(int stage, uint32_t parity, int granules, const uint8_t* source, uint64_t policy) const {
    const int lane = static_cast<int>(threadIdx.x);
    const int granule = lane / Tile::kBlocks;
    const int block = lane - granule * Tile::kBlocks;
    static_assert(Tile::kGranules * Tile::kBlocks <= 32, "a lane copies one piece");
    const auto from = reinterpret_cast<const uint8_t*>(
        __shfl_sync(~0u, reinterpret_cast<unsigned long long>(source), granule));
    barrier_wait(keys_empty(stage), parity ^ 1);
    if (lane == 0) barrier_arrive_expect(keys_full(stage), granules * Tile::kHalfBytes);
    __syncwarp();
    if (granule < granules) {
      bulk_copy(keys_at(stage) + Tile::key_piece(granule, block),
                from + block * Tile::kPieceBytes, Tile::kPieceBytes, keys_full(stage), policy);
    }
    __syncwarp();
  }

  __device__ void copy_values(int stage, uint32_t parity, int granules, const uint8_t* source, uint64_t policy,
                              uint32_t full) const {
    const int lane = static_cast<int>(threadIdx.x);
    barrier_wait(values_empty(stage), parity ^ 1);
    if (lane == 0) barrier_arrive_expect(full, granules * Tile::kHalfBytes);
    __syncwarp();
    if (lane < granules) {
      bulk_copy(values_at(stage) + lane * Tile::kHalfBytes, source + Tile::kHalfBytes, Tile::kHalfBytes, full, policy);
    }
    __syncwarp();
  }

  // Zeroes V of keys that no row of the tile sees: such slots may hold anything, and 0 x NaN is NaN. One warp.
  __device__ void clear_values(int stage, int key, const PrefillTile& tile) const {
    uint8_t* base = smem_ + Tile::kValuesAt + stage * Tile::kStageBytes;
    constexpr int kChunks = Tile::kHeadDim / 8;
    for (int i = threadIdx.x; i < Tile::kKeys * kChunks; i += 32) {
      const int token = i / kChunks;
      if (key + token >= tile.kv_begin && key + token < tile.kv_end) continue;
      *reinterpret_cast<uint4*>(base + token / kGranuleTokens * Tile::kHalfBytes +
                                chunk_offset(2 * Tile::kHeadDim, token & 15, i - token * kChunks)) =
          make_uint4(0, 0, 0, 0);
    }
    fence_before_copy();
    __syncwarp();
  }

  // --- Producer: queries ----------------------------------------------------------------------------------------

  __device__ void produce_queries(int thread) {
    uint32_t parity = 0;
    for (int round = 0; round * static_cast<int>(gridDim.x) < num_items(); ++round) {
      const int item = item_of(round);
      if (item >= num_items()) continue;
      const PrefillTile tile = load_tile(item);
      for (int w = 0; w < Tile::kConsumers; ++w) {
        barrier_wait(query_empty(w), parity ^ 1);
        store_queries(tile, item % p_.kv.num_kv_heads, w, thread);
        fence_before_copy();
        barrier_arrive(query_full(w));
      }
      parity ^= 1;
    }
  }

  __device__ void store_queries(const PrefillTile& tile, int head, int w, int thread) const {
    uint8_t* base = smem_ + w * Tile::kQueryBytes;
    for (int i = thread; i < 64 * Tile::kHeadDim / 16; i += Tile::kLoaderThreads) {
      const int row = i / (Tile::kHeadDim / 16);
      const int dim_step = i - row * (Tile::kHeadDim / 16);
      uint32_t pairs[8] = {};
      const int dim = dim_step * 16;
      if (w * 64 + row < tile.num_rows && dim < p_.head_dim) {
        read_query<Tile::kBf16>(p_.q, p_.q_dtype, query_index(p_, tile, head, tile.row_begin + w * 64 + row) + dim, pairs);
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        *reinterpret_cast<uint4*>(base + Tile::query_chunk(row, dim / 8 + half)) =
            make_uint4(pairs[4 * half], pairs[4 * half + 1], pairs[4 * half + 2], pairs[4 * half + 3]);
      }
    }
  }

  // --- Consumers ------------------------------------------------------------------------------------------------

  __device__ void consume(int w) {
    const int lane = static_cast<int>(threadIdx.x & 31);
    const int warp = static_cast<int>(threadIdx.x >> 5) & 3;
    Position keys, values;
    uint32_t query_parity = 0;
    if (w == 1) named_barrier_arrive(kTurn, 256);  // the first turn is warpgroup 0's
    for (int round = 0; round * static_cast<int>(gridDim.x) < num_items(); ++round) {
      const int item = item_of(round);
      if (item >= num_items()) continue;
      const PrefillTile tile = load_tile(item);
      const int head = item % p_.kv.num_kv_heads;
      const int steps = count_steps(tile);
      const int begin = first_key(tile);
      const int first_row = tile.row_begin + w * 64;
      const int row = first_row + warp * 16 + (lane >> 2);
      const int lowest = tile.first_position + min(first_row, tile.row_begin + tile.num_rows - 1) / p_.group;
      RowPair rows = open_rows(p_, tile, row);
      float score_scale = p_.softmax_scale;
      if (p_.scales != nullptr) score_scale *= p_.scales[head];
      float o[Tile::kHeadDim / 8][4] = {};
      float s[Tile::kOctets][4];
      uint32_t weights[Tile::kGranules][4];
      float factor[2];

      const auto softmax = [&](int step) {
        const int key = begin + step * Tile::kKeys;
        const float to_log2 = cap_scores(p_, score_scale, s);
        if (!all_visible(p_, tile, lowest, key, Tile::kKeys)) hide_keys(p_, rows, key, s);
        return weigh(to_log2, rows, s, factor);
      };

      barrier_wait(query_full(w), query_parity);
      query_parity ^= 1;
      if (steps > 0) {
        barrier_wait(keys_full(keys.stage), keys.parity);
        multiply_keys(w, keys.stage, s);
        wgmma_wait<0>();
        pin(s);
        release(keys_empty(keys.stage), lane);
        keys.advance();
        if (steps == 1) release(query_empty(w), lane);
        softmax(0);
        pack_weights(s, weights);
      } else {
        release(query_empty(w), lane);
      }
      for (int step = 1; step < steps; ++step) {
        barrier_wait(keys_full(keys.stage), keys.parity);
        named_barrier_wait(kTurn + w, 256);
        multiply_keys(w, keys.stage, s);
        barrier_wait(values_full(values.stage), values.parity);
        multiply_values(values.stage, weights, o);
        named_barrier_arrive(kTurn + (w ^ 1), 256);
        wgmma_wait<1>();
        pin(s);
        if (step == steps - 1) release(query_empty(w), lane);
        const bool rises = softmax(step);
        // The weights are to be computed while the product of the previous ones runs. The assembler would move that behind
        // the wait, but for a barrier whose address seems to need them (sums are never negative).
        release(keys_empty(keys.stage) + (rows.l[0] + rows.l[1] < 0.0f ? 8 : 0), lane);
        keys.advance();
        wgmma_wait<0>();
        pin(o);
        release(values_empty(values.stage), lane);
        values.advance();
        if (rises) rescale_output(factor, o);
        pack_weights(s, weights);
      }
      if (steps > 0) {
        barrier_wait(values_full(values.stage), values.parity);
        multiply_values(values.stage, weights, o);
        wgmma_wait<0>();
        pin(o);
        release(values_empty(values.stage), lane);
        values.advance();
      }
      write_rows(tile, head, row, rows, o);
    }
  }

  // A warp is done with what the barrier guards.
  __device__ static void release(uint32_t barrier, int lane) {
    __syncwarp();
    if (lane == 0) barrier_arrive(barrier);
  }

  __device__ void multiply_keys(int w, int stage, float (&s)[Tile::kOctets][4]) const {
    const uint64_t query = Tile::query_descriptor(base_ + w * Tile::kQueryBytes);
    const uint64_t key = Tile::key_descriptor(keys_at(stage));
    pin(s);
    wgmma_fence();
#pragma unroll
    for (int d = 0; d < Tile::kHeadDim / 16; ++d) {
      wgmma_shared<Tile::kBf16>(s, query + Tile::query_step(d), key + Tile::key_step(d), d > 0);
    }
    wgmma_commit();
    pin(s);
  }

  __device__ void multiply_values(int stage, const uint32_t (&weights)[Tile::kGranules][4],
                                  float (&o)[Tile::kHeadDim / 8][4]) const {
    const uint64_t value = Tile::value_descriptor(values_at(stage));
    pin(o);
    wgmma_fence();
#pragma unroll
    for (int granule = 0; granule < Tile::kGranules; ++granule) {
      wgmma_registers<Tile::kBf16>(o, weights[granule], value + Tile::value_step(granule));
    }
    wgmma_commit();
    pin(o);
  }

  // Octets 2 i and 2 i + 1 are the keys of granule i: its fragment of P.
  __device__ static void pack_weights(const float (&s)[Tile::kOctets][4], uint32_t (&weights)[Tile::kGranules][4]) {
#pragma unroll
    for (int granule = 0; granule < Tile::kGranules; ++granule) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* from = s[2 * granule + (i >> 1)] + 2 * (i & 1);
        weights[granule][i] = Tile::kBf16 ? pack_bf16x2(from[0], from[1]) : pack_f16x2(from[0], from[1]);
      }
    }
  }

  __device__ void write_rows(const PrefillTile& tile, int head, int row, const RowPair& rows,
                             const float (&o)[Tile::kHeadDim / 8][4]) const {
    const int t = static_cast<int>(threadIdx.x & 3);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const RowEnd end = close_row(p_, tile, head, row + 8 * r, rows.m[r], rows.l[r]);
      if (end.index < 0) continue;
#pragma unroll
      for (int j = 0; j < Tile::kHeadDim / 8; ++j) {
        if (8 * j >= p_.head_dim) break;
        write_pair(p_, end.index + 8 * j + 2 * t, o[j][2 * r] * end.factor, o[j][2 * r + 1] * end.factor);
      }
    }
  }

  static constexpr int kTurn = 1;  // named barriers 1 and 2: whose products may start

  const PrefillParams& p_;
  uint8_t* smem_;
  uint32_t base_;
};

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1) prefill_wgmma_kernel(const __grid_constant__ PrefillParams p) {
#if OCTAVO_WGMMA || !defined(__CUDA_ARCH__)
  extern __shared__ __align__(1024) uint8_t smem[];
  gpu_wait_for_predecessor();
  gpu_release_successor();
  PrefillWgmmaBlock<Tile>(p, smem).run();
#endif
}

template <class Tile>
void launch_prefill_wgmma(const PrefillParams& params, int num_items, GpuStream stream, bool overlap) {
  gpu_allow_smem(prefill_wgmma_kernel<Tile>, Tile::kSmemBytes);
  const int blocks = num_items < gpu_device().num_sms ? num_items : gpu_device().num_sms;
  gpu_launch(prefill_wgmma_kernel<Tile>, blocks, Tile::kThreads, Tile::kSmemBytes, stream, overlap, params);
}

template <bool kBf16, int kHeadDim>
PrefillLauncher prefill_wgmma_launcher() {
  using Tile = PrefillWgmmaTile<kBf16, kHeadDim>;
  return {launch_prefill_wgmma<Tile>, Tile::kRows};
}

template <bool kBf16>
PrefillLauncher find_prefill_wgmma(int head_dim) {
  switch (head_dim) {
    case 64:
      return prefill_wgmma_launcher<kBf16, 64>();
    case 128:
      return prefill_wgmma_launcher<kBf16, 128>();
    case 192:
      return prefill_wgmma_launcher<kBf16, 192>();
    case 256:
      return prefill_wgmma_launcher<kBf16, 256>();
    default:
      return {};
  }
}

}  // namespace octavo
