// The fast prefill kernel of compute capability 9.0, for 16-bit granules whose rows are whole column blocks (head_dim 64,
// 128, 192, 256): warpgroup products fed by bulk copies.
//
//   S[64 rows x keys] = Q K^T     Q and K from shared memory    a granule's column block is two of the tensor core's
//   O[64 rows x dims] += P V      P from registers, V from it   swizzled 8 x 128-byte blocks: copies need no reordering
//
// Blocks stay and take (tile, kv head) items in turn. Warpgroup 0 produces: warps 2 and 3 choose the next item and bring its
// Q, warp 0 brings K, warp 1 V. The other warpgroups keep 64 rows each and take turns (named barriers): while some compute
// their softmax, the next scores and the previous weights' product of another run.
//
// A warpgroup waits where it issues products until most of them are done, so what counts is how long it takes from the end
// of its products to the next ones: no more than the others' products do. Hence weights are computed by the maxima known
// before, at the exponential unit's speed, and again where they turn out too large (must_rise()).
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
 public:
  __device__ PrefillWgmmaBlock(const PrefillParams& p, uint8_t* smem)
      : p_(p), smem_(smem), base_(smem_address(smem)) {}

  __device__ void run() {
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < Tile::kKeyStages; ++stage) {
        barrier_init(keys_full(stage), 1);
        barrier_init(empty(keys_full(stage)), 4 * Tile::kConsumers);
      }
      for (int stage = 0; stage < Tile::kValueStages; ++stage) {
        barrier_init(values_full(stage), 1);
        barrier_init(empty(values_full(stage)), 4 * Tile::kConsumers);
      }
      for (int buffer = 0; buffer < Tile::kQueryBuffers; ++buffer) {
        for (int w = 0; w < Tile::kConsumers; ++w) {
          barrier_init(query_full(buffer, w), Tile::kLoaderThreads);
          barrier_init(empty(query_full(buffer, w)), 4);
        }
      }
      for (int slot = 0; slot < Tile::kItemSlots; ++slot) {
        barrier_init(item_full(slot), 1);
        barrier_init(empty(item_full(slot)), 4 * Tile::kConsumers + 4);  // all warps
      }
      barrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
      lower_registers<Tile::kProducerRegisters>();
      if (threadIdx.x < 32)
        produce_keys();
      else if (threadIdx.x < 64)
        produce_values();
      else
        produce_items(threadIdx.x - 64);
    } else {
      raise_registers<Tile::kConsumerRegisters>();
      consume(uniform(static_cast<int>(threadIdx.x >> 7)) - 1);
    }
  }

  // A value that all lanes of the warp have: now the compiler knows it too, and keeps what follows from it, as rings'
  // positions and the products' descriptors, in uniform registers.
  __device__ static int uniform(int x) { return __shfl_sync(~0u, x, 0); }

 private:
  // What the warps know of the item they work on.
  struct Item {
    PrefillTile tile;  // of no rows: there is no item any more
    int32_t head;
    float score_scale;
    float value_scale;
  };

  // Items go to blocks there and back, so that all get about the same share of the long ones, which come first. A round
  // without an item is the last.
  __device__ int item_of(int round) const {
    const int blocks = static_cast<int>(gridDim.x);
    const int b = static_cast<int>(blockIdx.x);
    return round * blocks + ((round & 1) != 0 ? blocks - 1 - b : b);
  }

  __device__ Item load_item(int index) const {
    Item item;
    const int tile = index / p_.kv.num_kv_heads;
    item.head = index - tile * p_.kv.num_kv_heads;
    const int4* from = reinterpret_cast<const int4*>(p_.tiles + tile);
    reinterpret_cast<int4*>(&item.tile)[0] = from[0];
    reinterpret_cast<int4*>(&item.tile)[1] = from[1];
    item.score_scale = p_.softmax_scale * key_scale(p_, item.head);
    item.value_scale = value_scale(p_, item.head);
    return item;
  }

  // Of keys; rows that see none take one step of hidden keys.
  __device__ static int count_steps(const PrefillTile& tile) {
    return max((tile.kv_end - first_key(tile) + Tile::kKeys - 1) / Tile::kKeys, 1);
  }

  __device__ uint32_t barrier(int index) const { return base_ + Tile::kBarrierAt + index * 8; }
  __device__ uint32_t keys_full(int stage) const { return barrier(stage); }
  __device__ uint32_t values_full(int stage) const { return barrier(Tile::kKeyStages + stage); }
  __device__ uint32_t query_full(int buffer, int w) const {
    return barrier(Tile::kKeyStages + Tile::kValueStages + buffer * Tile::kConsumers + w);
  }
  __device__ uint32_t item_full(int slot) const {
    return barrier(Tile::kKeyStages + Tile::kValueStages + Tile::kQueryBuffers * Tile::kConsumers + slot);
  }
  // The barrier that says that what the other one announces has been used.
  __device__ static uint32_t empty(uint32_t full) { return full + Tile::kNumFull * 8; }
  __device__ uint32_t keys_at(int stage) const { return base_ + Tile::kKeysAt + stage * Tile::kStageBytes; }
  __device__ uint32_t values_at(int stage) const { return base_ + Tile::kValuesAt + stage * Tile::kStageBytes; }
  __device__ Item& item_slot(int slot) const {
    static_assert(sizeof(Item) <= Tile::kItemBytes, "an item fits in its slot");
    return *reinterpret_cast<Item*>(smem_ + Tile::kItemsAt + slot * Tile::kItemBytes);
  }
  __device__ static int query_at(int buffer, int w) { return (buffer * Tile::kConsumers + w) * Tile::kQueryBytes; }

  // --- Producer: keys and values --------------------------------------------------------------------------------

  // Where the K half of the granule of a key lies; V's follows.
  __device__ const uint8_t* granule_source(const PrefillTile& tile, int head, int key) const {
    if (tile.scratch != kNoScratch) {
      return p_.scratch + head * p_.scratch_head_bytes +
             static_cast<int64_t>(tile.scratch + key / kGranuleTokens) * (2 * Tile::kHalfBytes);
    }
    return p_.pages + p_.kv.granule_offset(find_page(p_, tile.seq, key), head, key & ((1 << p_.kv.page_shift) - 1));
  }

  // Calls copy(tile, first key, where granule `lane` lies) for all steps of all items; a warp for K, one for V.
  template <class Copy>
  __device__ void walk_steps(Copy copy) const {
    const int lane = static_cast<int>(threadIdx.x & 31);
    for (RingPosition<Tile::kItemSlots> items;; items.advance()) {
      barrier_wait(item_full(items.stage), items.parity);
      const Item& item = item_slot(items.stage);
      const PrefillTile& tile = item.tile;
      if (tile.num_rows == 0) return;
      const int begin = first_key(tile);
      const int steps = count_steps(tile);
      const auto source_of = [&](int step) -> const uint8_t* {
        const int key = begin + step * Tile::kKeys + lane * kGranuleTokens;
        return lane < Tile::kGranules && key < tile.kv_end ? granule_source(tile, item.head, key) : nullptr;
      };
      const uint8_t* source = source_of(0);
      for (int step = 0; step < steps; ++step) {
        const uint8_t* next = source_of(step + 1);  // looked up before it is needed
        copy(tile, begin + step * Tile::kKeys, source);
        source = next;
      }
      release(empty(item_full(items.stage)), lane);
    }
  }

  //   piece:    granule 0, block 0 | granule 0, block 1 | granule 1, block 0 | ..     one a lane
  //   goes to:  block 0: granule 0, 1, ..  | block 1: granule 0, 1, ..
  __device__ void produce_keys() const {
    const uint64_t policy = evict_normal_policy();
    const int lane = static_cast<int>(threadIdx.x & 31);
    const int granule = lane / Tile::kBlocks;
    const int block = lane - granule * Tile::kBlocks;
    static_assert(Tile::kGranules * Tile::kBlocks <= 32, "a lane copies one piece");
    RingPosition<Tile::kKeyStages> keys;
    walk_steps([&](const PrefillTile& tile, int key, const uint8_t* source) {
      const int granules = min(max(tile.kv_end - key + kGranuleTokens - 1, 0) / kGranuleTokens, Tile::kGranules);
      const auto from = reinterpret_cast<const uint8_t*>(
          __shfl_sync(~0u, reinterpret_cast<unsigned long long>(source), granule));
      const uint32_t full = keys_full(keys.stage);
      barrier_wait(empty(full), keys.parity ^ 1);
      if (lane == 0) barrier_arrive_expect(full, granules * Tile::kHalfBytes);
      __syncwarp();
      if (granule < granules) {
        bulk_copy(keys_at(keys.stage) + Tile::key_piece(granule, block), from + block * Tile::kPieceBytes,
                  Tile::kPieceBytes, full, policy);
      }
      __syncwarp();
      keys.advance();
    });
  }

  // V of keys that no row of the tile sees is not brought: such slots may hold anything, and 0 x NaN is NaN. It becomes
  // zeros, as far as the products read.
  //
  //   rows of the stage:  | zeros | copied | zeros up to the half or the end |
  //                       0     begin     end
  __device__ void produce_values() const {
    const uint64_t policy = evict_normal_policy();
    const int lane = static_cast<int>(threadIdx.x & 31);
    RingPosition<Tile::kValueStages> values;
    walk_steps([&](const PrefillTile& tile, int key, const uint8_t* source) {
      const uint32_t full = values_full(values.stage);
      const int begin = max(tile.kv_begin - key, 0);
      const int end = max(min(tile.kv_end - key, Tile::kKeys), begin);
      barrier_wait(empty(full), values.parity ^ 1);
      if (end - begin < Tile::kKeys) {
        clear_values(values.stage, 0, begin);
        clear_values(values.stage, end, end <= Tile::kKeys / 2 ? Tile::kKeys / 2 : Tile::kKeys);
        fence_before_copy();
        __syncwarp();
      }
      if (lane == 0) barrier_arrive_expect(full, (end - begin) * (2 * Tile::kHeadDim));
      __syncwarp();
      const int first = lane * kGranuleTokens;
      copy_values(values_at(values.stage) + lane * Tile::kHalfBytes, source + Tile::kHalfBytes, max(begin - first, 0),
                  min(end - first, kGranuleTokens), full, policy);
      __syncwarp();
      values.advance();
    });
  }

  // Rows [begin, end) of a granule.
  __device__ static void copy_values(uint32_t to, const uint8_t* from, int begin, int end, uint32_t full,
                                     uint64_t policy) {
    if (end - begin == kGranuleTokens) {
      bulk_copy(to, from, Tile::kHalfBytes, full, policy);
    } else if (end > begin) {
#pragma unroll 1  // registers are few
      for (int block = 0; block < Tile::kBlocks; ++block) {
        const int at = block * Tile::kPieceBytes + begin * kBlockBytes;
        bulk_copy(to + at, from + at, (end - begin) * kBlockBytes, full, policy);
      }
    }
  }

  // Zeroes rows [begin, end) of a stage. One warp: a lane's chunk of one row after the other.
  __device__ void clear_values(int stage, int begin, int end) const {
    constexpr int kChunks = Tile::kHeadDim / 8;  // of a row
    constexpr int kRowsAtOnce = 32 / kChunks;
    const int lane = static_cast<int>(threadIdx.x & 31);
    const int chunk = lane % kChunks;
    uint8_t* base = smem_ + Tile::kValuesAt + stage * Tile::kStageBytes + chunk / 8 * Tile::kPieceBytes +
                    chunk % 8 * kChunkBytes;
#pragma unroll 2  // registers are few
    for (int row = begin + lane / kChunks; row < end && lane < kRowsAtOnce * kChunks; row += kRowsAtOnce) {
      *reinterpret_cast<uint4*>(base + row / kGranuleTokens * Tile::kHalfBytes + row % kGranuleTokens * kBlockBytes) =
          make_uint4(0, 0, 0, 0);
    }
  }

  // --- Producer: items and queries ------------------------------------------------------------------------------

  __device__ void produce_items(int thread) const {
    RingPosition<Tile::kQueryBuffers> queries;
    RingPosition<Tile::kItemSlots> items;
    for (int round = 0;; ++round) {
      const uint32_t item_there = item_full(items.stage);
      if (thread == 0) {
        const int index = item_of(round);
        const bool more = index < *p_.num_tiles * p_.kv.num_kv_heads;
        const Item item = more ? load_item(index) : Item{};
        barrier_wait(empty(item_there), items.parity ^ 1);
        item_slot(items.stage) = item;
        barrier_arrive(item_there);
      }
      __syncwarp();
      barrier_wait(item_there, items.parity);
      const Item& item = item_slot(items.stage);
      if (item.tile.num_rows == 0) return;
      for (int w = 0; w < Tile::kConsumers; ++w) {
        const uint32_t full = query_full(queries.stage, w);
        barrier_wait(empty(full), queries.parity ^ 1);
        store_queries(item, w, smem_ + query_at(queries.stage, w), thread);
        fence_before_copy();
        barrier_arrive(full);
      }
      queries.advance();
      release(empty(item_there), thread & 31);
      items.advance();
    }
  }

  // A unit is 16 dims of a row. Queries of 16 bits are copied as they lie, all at once, and converted in place, each by the
  // thread that brought it, where they are not of the products' type.
  __device__ void store_queries(const Item& item, int w, uint8_t* base, int thread) const {
    const auto store = [&](int row, int dim, const uint32_t (&pairs)[8]) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        *reinterpret_cast<uint4*>(base + Tile::query_chunk(row, dim / 8 + half)) =
            make_uint4(pairs[4 * half], pairs[4 * half + 1], pairs[4 * half + 2], pairs[4 * half + 3]);
      }
    };
    const bool is_f32 = p_.q_dtype == OCTAVO_F32;
    for_each_unit(item, w, thread, [&](int row, int dim, bool is_there) {
      const int64_t at = query_index(p_, item.tile, item.head, item.tile.row_begin + w * 64 + row) + dim;
      if (is_there && !is_f32) {
        const uint8_t* from = static_cast<const uint8_t*>(p_.q) + at * 2;
        copy_16(smem_address(base + Tile::query_chunk(row, dim / 8)), from);
        copy_16(smem_address(base + Tile::query_chunk(row, dim / 8 + 1)), from + kChunkBytes);
        return;
      }
      uint32_t pairs[8] = {};
      if (is_there) read_query<Tile::kBf16>(p_.q, OCTAVO_F32, at, pairs);
      store(row, dim, pairs);
    });
    copy_commit();
    copy_wait<0>();
    if (is_f32 || p_.q_dtype == (Tile::kBf16 ? OCTAVO_BF16 : OCTAVO_F16)) return;
    for_each_unit(item, w, thread, [&](int row, int dim, bool is_there) {
      if (!is_there) return;
      const RawQuery raw = {*reinterpret_cast<const uint4*>(base + Tile::query_chunk(row, dim / 8)),
                            *reinterpret_cast<const uint4*>(base + Tile::query_chunk(row, dim / 8 + 1))};
      uint32_t pairs[8];
      convert_query<Tile::kBf16>(raw, p_.q_dtype, pairs);
      store(row, dim, pairs);
    });
  }

  // Calls visit(row, first dim, whether q has it) for the thread's units of a warpgroup's 64 rows.
  template <class Visit>
  __device__ void for_each_unit(const Item& item, int w, int thread, Visit visit) const {
    constexpr int kSteps = Tile::kHeadDim / 16;
    for (int i = thread; i < 64 * kSteps; i += Tile::kLoaderThreads) {
      const int row = i / kSteps;
      const int dim = i % kSteps * 16;
      visit(row, dim, w * 64 + row < item.tile.num_rows && dim < p_.head_dim);
    }
  }

  // --- Consumers ------------------------------------------------------------------------------------------------

  //   tensor core:  QK 0 | QK 1, PV 0 | QK 2, PV 1 | .. | PV n, QK 0 of the next item |
  //   softmax:           0            1            2                                  0, and the output of this one
  __device__ void consume(int w) {
    const int lane = static_cast<int>(threadIdx.x & 31);
    RingPosition<Tile::kKeyStages> keys;
    RingPosition<Tile::kValueStages> values;
    RingPosition<Tile::kQueryBuffers> queries;
    if (w == Tile::kConsumers - 1) named_barrier_arrive(kTurn, 256);  // the first turn is warpgroup 0's
    float o[Tile::kHeadDim / 8][4];
    float s[Tile::kOctets][4];
    uint32_t weights[Tile::kGranules][4];

    const auto start_scores = [&] {
      barrier_wait(query_full(queries.stage, w), queries.parity);
      barrier_wait(keys_full(keys.stage), keys.parity);
      multiply_keys(base_ + query_at(queries.stage, w), keys.stage, s);
    };
    const auto release_query = [&] {
      release(empty(query_full(queries.stage, w)), lane);
      queries.advance();
    };

    RingPosition<Tile::kItemSlots> items;  // the current item's slot; it is read again where it is needed
    const auto is_item = [&](const RingPosition<Tile::kItemSlots>& at) {
      barrier_wait(item_full(at.stage), at.parity);
      return uniform(item_slot(at.stage).tile.num_rows) > 0;
    };
    if (!is_item(items)) return;
    if constexpr (Tile::kQueryBuffers > 1) start_scores();
    while (true) {
      if constexpr (Tile::kQueryBuffers == 1) start_scores();
      wgmma_wait<0>();
      pin(s);
      const Item& item = item_slot(items.stage);
      const float score_scale = item.score_scale;
      const int begin = uniform(first_key(item.tile));
      const int steps = uniform(count_steps(item.tile));
      const StepRange visible = find_visible(item.tile, w);
      RowPair rows = open_rows(p_, item.tile, item.tile.row_begin + row_in_tile(w));
      float factor[2], sum[2];
      const auto finish_scores = [&](int step) {
        const float to_log2 = cap_scores(p_, score_scale, s);
        if (step < visible.begin || step >= visible.end) {
          const Item& there = item_slot(items.stage);
          const RowPair positions = open_rows(p_, there.tile, there.tile.row_begin + row_in_tile(w));
          hide_keys(p_, positions, begin + step * Tile::kKeys, s);
        }
        return to_log2;
      };

      release(empty(keys_full(keys.stage)), lane);
      keys.advance();
      if (steps == 1) release_query();
      {
        const float to_log2 = finish_scores(0);
        float top[2];
        find_top(to_log2, s, top);
        raise_maxima(top, rows, factor);
        lower_scores(to_log2, rows, s);
        weigh_packed<Tile::kBf16>(s, weights, rows.l);
      }
#pragma unroll
      for (int j = 0; j < Tile::kHeadDim / 8; ++j) o[j][0] = o[j][1] = o[j][2] = o[j][3] = 0.0f;
      for (int step = 1; step < steps; ++step) {
        barrier_wait(keys_full(keys.stage), keys.parity);
        named_barrier_wait(kTurn + w, 256);
        multiply_keys(base_ + query_at(queries.stage, w), keys.stage, s);
        barrier_wait(values_full(values.stage), values.parity);
        multiply_values(values.stage, weights, o);
        named_barrier_arrive(kTurn + (w + 1 < Tile::kConsumers ? w + 1 : 0), 256);
        wgmma_wait<0>();
        pin(s);
        pin(o);
        release(empty(keys_full(keys.stage)), lane);
        keys.advance();
        release(empty(values_full(values.stage)), lane);
        values.advance();
        if (step == steps - 1) release_query();
        lower_scores(finish_scores(step), rows, s);
        weigh_packed<Tile::kBf16>(s, weights, sum);
        if (must_rise(sum, rows)) {
          raise_maxima(rows, s, factor);
          rescale_output(factor, o);
          weigh_packed<Tile::kBf16>(s, weights, sum);
        }
        rows.l[0] += sum[0], rows.l[1] += sum[1];
      }

      const auto finish = [&] {
        pin(o);
        release(empty(values_full(values.stage)), lane);
        values.advance();
        write_rows(item_slot(items.stage), w, rows, o);
        release(empty(item_full(items.stage)), lane);
        items.advance();
      };
      const auto multiply_last = [&] {
        if (uniform(item_slot(items.stage).tile.kv_end) - begin - (steps - 1) * Tile::kKeys <= Tile::kKeys / 2)
          multiply_values<Tile::kGranules / 2>(values.stage, weights, o);
        else
          multiply_values(values.stage, weights, o);
      };
      barrier_wait(values_full(values.stage), values.parity);
      if constexpr (Tile::kQueryBuffers == 1) {
        multiply_last();
        wgmma_wait<0>();
        finish();
        if (!is_item(items)) return;
      } else {  // the next item's first scores run while this one's output is written
        RingPosition<Tile::kItemSlots> next = items;
        next.advance();
        if (!is_item(next)) {
          multiply_last();
          wgmma_wait<0>();
          finish();
          return;
        }
        multiply_last();
        start_scores();
        wgmma_wait<1>();
        finish();
      }
    }
  }

  // The lane's first row, of warpgroup w.
  __device__ static int row_in_tile(int w) {
    return w * 64 + static_cast<int>((threadIdx.x >> 5) & 3) * 16 + static_cast<int>((threadIdx.x & 31) >> 2);
  }

  // Steps of an item whose keys all rows of warpgroup w see.
  struct StepRange {
    int begin, end;
  };

  __device__ StepRange find_visible(const PrefillTile& tile, int w) const {
    const int key = first_key(tile);
    const int lowest_row = min(tile.row_begin + w * 64, tile.row_begin + tile.num_rows - 1);
    const int lowest = tile.first_position + token_of(p_, lowest_row);
    const int oldest = p_.sliding_window > 0 ? tile.kv_end - p_.sliding_window : key;
    return {uniform(max(oldest - key + Tile::kKeys - 1, 0) / Tile::kKeys),
            uniform(max(lowest + 1 - key, 0) / Tile::kKeys)};
  }

  // A warp is done with what the barrier guards.
  __device__ static void release(uint32_t barrier, int lane) {
    __syncwarp();
    if (lane == 0) barrier_arrive(barrier);
  }

  __device__ void multiply_keys(uint32_t query_at, int stage, float (&s)[Tile::kOctets][4]) const {
    const uint64_t query = Tile::query_descriptor(query_at);
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

  // Of the first so many granules of a stage.
  template <int kUsed = Tile::kGranules>
  __device__ void multiply_values(int stage, const uint32_t (&weights)[Tile::kGranules][4],
                                  float (&o)[Tile::kHeadDim / 8][4]) const {
    const uint64_t value = Tile::value_descriptor(values_at(stage));
    pin(o);
    wgmma_fence();
#pragma unroll
    for (int granule = 0; granule < kUsed; ++granule) {
      wgmma_registers<Tile::kBf16>(o, weights[granule], value + Tile::value_step(granule));
    }
    wgmma_commit();
    pin(o);
  }

  __device__ void write_rows(const Item& item, int w, const RowPair& rows,
                             const float (&o)[Tile::kHeadDim / 8][4]) const {
    const int t = static_cast<int>(threadIdx.x & 3);
    const int row = item.tile.row_begin + row_in_tile(w);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const RowEnd end = close_row(p_, item.tile, item.head, row + 8 * r, rows.m[r], rows.l[r], item.value_scale);
      if (p_.q_dtype == OCTAVO_F32) {
#pragma unroll
        for (int j = 0; j < Tile::kHeadDim / 8; ++j) {
          if (end.index < 0 || 8 * j >= p_.head_dim) break;
          write_pair(p_, end.index + 8 * j + 2 * t, o[j][2 * r] * end.factor, o[j][2 * r + 1] * end.factor);
        }
        continue;
      }
#pragma unroll
      for (int j = 0; j < Tile::kHeadDim / 8; j += 4) {
        uint32_t words[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float x = o[j + i][2 * r] * end.factor, y = o[j + i][2 * r + 1] * end.factor;
          words[i] = p_.q_dtype == OCTAVO_BF16 ? pack_bf16x2(x, y) : pack_f16x2(x, y);
        }
        const uint4 octet = gather_octet(words, t);
        if (end.index < 0 || 8 * (j + t) >= p_.head_dim) continue;
        *reinterpret_cast<uint4*>(static_cast<uint16_t*>(p_.out) + end.index + 8 * (j + t)) = octet;
      }
    }
  }

  // Four octets of a row, two elements of each in each of four lanes: lane t receives the whole of octet t.
  //
  //   words of lane:  0    1    2    3           first step          second step
  //   octet 0:        a    b    c    d           lane 0: a b         lane 0: a b c d
  //   octet 1:        e    f    g    h           lane 1: e f         lane 1: e f g h
  __device__ static uint4 gather_octet(const uint32_t (&words)[4], int t) {
    const bool odd = (t & 1) != 0;
    const uint32_t first = __shfl_xor_sync(~0u, odd ? words[0] : words[1], 1);
    const uint32_t second = __shfl_xor_sync(~0u, odd ? words[2] : words[3], 1);
    const uint2 lower = odd ? make_uint2(first, words[1]) : make_uint2(words[0], first);
    const uint2 upper = odd ? make_uint2(second, words[3]) : make_uint2(words[2], second);
    const bool high = (t & 2) != 0;
    const uint32_t x = __shfl_xor_sync(~0u, high ? lower.x : upper.x, 2);
    const uint32_t y = __shfl_xor_sync(~0u, high ? lower.y : upper.y, 2);
    return high ? make_uint4(x, y, upper.x, upper.y) : make_uint4(lower.x, lower.y, x, y);
  }

  static constexpr int kTurn = 1;  // named barriers from here on: whose products may start

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
