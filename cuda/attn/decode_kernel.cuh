// The attention kernel: scores and output transposed, so that one load and conversion of K and V serves all heads of a
// group and the few queries fill the MMA's narrow side.
//
//   S^T[16 keys x 8 columns] = K[16 keys x dims] Q^T[dims x 8 columns]       column = (query token, head of the group)
//   O^T[16 dims x 8 columns] += V^T[16 dims x 16 keys] P^T[16 keys x 8 columns]
//
// A block walks its plan range; its warps take the range's steps in turn, each with its own ring of shared memory that
// copies fill ahead of time, across the edges of items. There is no barrier in the loop: warps meet once an item, to
// merge. Of an item cut by a range's edge every block but the first sends its result to the first, which adds them in the
// ranges' order, so that results are the same bits in every run.
//
// Softmax is in base 2. P = 2^(s - m + kShift) keeps small weights above f16's smallest number; m lags behind the true
// maximum by at most kSlack, so that the sums are rescaled rarely. Where each token has a scale of its own, K's
// multiplies its score and V's its weight, in units of a power of two above all of V's scales seen, so that f16 holds the
// product.
#pragma once

#include <cfloat>

#include "arch/ptx.cuh"
#include "arch/words.cuh"
#include "attn/decode.h"
#include "attn/decode_feed.cuh"
#include "attn/decode_tile.h"
#include "kv/stored.cuh"

namespace octavo {

constexpr float kShift = 7.0f;
constexpr float kSlack = 8.0f;  // 2^(kShift + kSlack) < 65504
constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;
constexpr float kNegInf = -INFINITY;
constexpr uint32_t kLeastUnit = 0x00800000u;  // 2^-126, as its bits
constexpr uint32_t kMostUnit = 0x7E800000u;   // 2^126
constexpr int kMaxFlatMerge = 24;  // partial results of an item that one block takes in
constexpr int kMergeGroup = 12;    // else about the square root of the most there are, in two rounds

// Four adjacent elements of Q as they lie in memory (16-bit types: in x and y).
__device__ inline uint4 read_quad(const void* q, int dtype, int64_t index) {
  if (dtype == OCTAVO_F32) return *reinterpret_cast<const uint4*>(static_cast<const float*>(q) + index);
  const uint2 raw = *reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(q) + index);
  return make_uint4(raw.x, raw.y, 0, 0);
}

__device__ inline float2 widen_pair(uint32_t pair, bool is_bf16) {
  if (is_bf16) return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000u));
  return __half22float2(*reinterpret_cast<const __half2*>(&pair));
}

__device__ inline void widen_quad(uint4 raw, int dtype, float (&x)[4]) {
  if (dtype == OCTAVO_F32) {
    x[0] = __uint_as_float(raw.x), x[1] = __uint_as_float(raw.y);
    x[2] = __uint_as_float(raw.z), x[3] = __uint_as_float(raw.w);
    return;
  }
  const float2 low = widen_pair(raw.x, dtype == OCTAVO_BF16);
  const float2 high = widen_pair(raw.y, dtype == OCTAVO_BF16);
  x[0] = low.x, x[1] = low.y, x[2] = high.x, x[3] = high.y;
}

// Beyond f16's range only poison is found; NaN stays NaN.
__device__ inline float clamp_to_f16(float x) { return fabsf(x) > 65504.0f ? copysignf(65504.0f, x) : x; }

__device__ inline void write_output(const DecodeParams& p, int64_t index, float4 value) {
  if (p.q_dtype == OCTAVO_F32) {
    *reinterpret_cast<float4*>(static_cast<float*>(p.out) + index) = value;
    return;
  }
  const bool bf16 = p.q_dtype == OCTAVO_BF16;
  uint2 packed;
  packed.x = bf16 ? pack_bf16x2(value.x, value.y) : pack_f16x2(value.x, value.y);
  packed.y = bf16 ? pack_bf16x2(value.z, value.w) : pack_f16x2(value.z, value.w);
  *reinterpret_cast<uint2*>(static_cast<uint16_t*>(p.out) + index) = packed;
}

__device__ inline float max_over_keys(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 4));
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 8));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 16));
}

__device__ inline float sum_over_keys(float x) {
  x += __shfl_xor_sync(~0u, x, 4);
  x += __shfl_xor_sync(~0u, x, 8);
  return x + __shfl_xor_sync(~0u, x, 16);
}

// One warp's running result for one item.
template <class Tile>
struct Accumulator {
  float o[Tile::kDimSteps][Tile::kTiles][4];  // O^T fragments
  float m[Tile::kTiles][2];                   // columns 2t, 2t+1 of each tile, base 2
  float l[Tile::kTiles][2];                   // this lane's keys only
  uint32_t unit[Tile::kUnits];                // bits of the powers of two that o is counted in, where V has scales

  __device__ void reset() {
#pragma unroll
    for (int u = 0; u < Tile::kUnits; ++u) unit[u] = kLeastUnit;
#pragma unroll
    for (int n = 0; n < Tile::kTiles; ++n) {
      for (int e = 0; e < 2; ++e) m[n][e] = kNegInf, l[n][e] = 0.0f;
#pragma unroll
      for (int d = 0; d < Tile::kDimSteps; ++d) {
        for (int i = 0; i < 4; ++i) o[d][n][i] = 0.0f;
      }
    }
  }
};

// What the arithmetic needs to know of an item.
struct ItemView {
  PlanRow row;
  int head;
  float score_scale;  // multiplies q.k: softmax scale x K scale (x log2 e without soft-cap)
  float value_scale;
};

template <class Tile>
class DecodeBlock {
  using Stored = typename Tile::Stored;

 public:
  __device__ DecodeBlock(const DecodeParams& p, uint8_t* smem)
      : p_(p), smem_(smem), warp_(threadIdx.x >> 5), lane_(threadIdx.x & 31) {
    const int token = (lane_ & 7) + ((lane_ >> 3) & 1) * 8;
#pragma unroll
    for (int pair = 0; pair < Tile::kKeyPairs; ++pair) {
      key_offset_[pair] = chunk_offset(Tile::kKeyRowBytes, token, min(2 * pair + (lane_ >> 4), Tile::kKeyChunks - 1));
    }
    if constexpr (!kSameRows) {
#pragma unroll
      for (int pair = 0; pair < Tile::kValuePairs; ++pair) {
        value_offset_[pair] =
            chunk_offset(Tile::kValueRowBytes, token, min(2 * pair + (lane_ >> 4), Tile::kValueChunks - 1));
      }
    }
  }

  __device__ void run() {
    if (p_.early == 0) begin_after_predecessor();
    const FirstPages<Tile> pages(p_, warp_);  // on its way together with the range
    const PlanRange range = load_range(p_.ranges, blockIdx.x);
    if (range.item_last < range.item_begin) {
      // One block keeps the chain in order; the others make room for the next kernel's.
      if (p_.early != 0 && blockIdx.x == 0) begin_after_predecessor();
      return;
    }
    const uint32_t ring = smem_address(smem_) + warp_ * Tile::kStages * Tile::kStepBytes;
    const uint32_t barriers = smem_address(smem_ + Tile::kBarrierAt) + warp_ * Tile::kStages * 8;
    Feed<Tile> feed(p_, range, ring, barriers, warp_);
    ItemView view = {range.row, range.item_begin % p_.kv.num_kv_heads};
    int row_index = range.item_begin / p_.kv.num_kv_heads;
    QueryPlace place;
    if constexpr (Tile::kQueryAhead) find_query(view.head, view.row, place);
    if (p_.early != 0) {
      feed.start_old(pages);
      begin_after_predecessor();
    }
    if constexpr (Tile::kQueryAhead) {
      QueryShare query;
      fetch_query(place, query);
      feed.start(pages);
      put_query(query, 0);
    } else {
      feed.start(pages);
      store_query(view.head, view.row, 0);
    }
    if (threadIdx.x == 0) shared_range() = range;
    __syncthreads();
    const int item_begin = range.item_begin;
    const int item_last = range.item_last;

    int stage = 0;
    int round = 0;
    int skip = warp_;  // steps of the item before this warp's first
    Accumulator<Tile> acc;
    for (int item = item_begin; item <= item_last; ++item) {
      const int next_buffer = (item + 1 - item_begin) & 1;
      if (item > item_begin) open_next(view, row_index);
      load_scales(view);
      QueryShare next;
      if (item < item_last) {
        const int head = view.head + 1 < p_.kv.num_kv_heads ? view.head + 1 : 0;
        const PlanRow row = head > 0 ? view.row : load_row(p_.rows, row_index + 1);
        if constexpr (Tile::kQueryAhead) {
          find_query(head, row, place);
          fetch_query(place, next);
        } else {
          store_query(head, row, next_buffer);
        }
      }
      load_query((item - item_begin) & 1);
      acc.reset();
      const int begin = item == item_begin ? shared_range().step_begin : view.row.step_begin;
      const int end = item == item_last ? shared_range().step_end : view.row.step_end;
      int step = begin + skip;
      for (; step < end; step += Tile::kWarps) {
        feed.wait(stage, round);
        take_step(ring + stage * Tile::kStepBytes, step * Tile::kStepTokens, view, acc);
        __syncwarp();
        feed.issue(stage);
        if (++stage == Tile::kStages) stage = 0, ++round;
      }
      skip = step - end;
      if constexpr (Tile::kQueryAhead) {
        if (item < item_last) put_query(next, next_buffer);
      }
      finish_item(item, view, acc);
    }
  }

 private:
  // Waiting before releasing keeps a chain in order: whatever is older than a kernel's predecessor has finished.
  __device__ static void begin_after_predecessor() {
    gpu_wait_for_predecessor();
    gpu_release_successor();
  }

  // The block's range, where it takes no registers.
  __device__ PlanRange& shared_range() const { return *reinterpret_cast<PlanRange*>(smem_ + Tile::kRangeAt); }

  // From an item to the next.
  __device__ void open_next(ItemView& view, int& row_index) const {
    if (++view.head < p_.kv.num_kv_heads) return;
    view.head = 0;
    view.row = load_row(p_.rows, ++row_index);
  }

  __device__ void load_scales(ItemView& view) const {
    view.score_scale = p_.softmax_scale * (p_.scales != nullptr ? p_.scales[view.head] : 1.0f);
    if (p_.logit_softcap <= 0) view.score_scale *= kLog2E;
    view.value_scale = p_.scales != nullptr ? p_.scales[p_.kv.num_kv_heads + view.head] : 1.0f;
  }

  // Q of an item goes into shared memory in the order of the MMA's B fragments. A thread brings four dims of a column at
  // a time (kQuadParts 2: and the four that lie 128 higher), so that whole warps turn what has to be rotated:
  //
  //   threads:       | column 0: dims 0-3 | 4-7 | .. | column 1: dims 0-3 | ..
  //   shared memory: [dim step][column tile][lane] -> {b0, b1}
  struct RawQuads {
    uint4 part[Tile::kQuadParts];
  };

  // What a thread holds of an item's Q on its way to shared memory.
  struct QueryShare {
    RawQuads raw[Tile::kQueryAhead ? Tile::kQueryShare : 1];
  };

  // Where quad i of an item's Q lies, -1: nowhere.
  __device__ int64_t find_quads(int i, int head, const PlanRow& row) const {
    const int column = i / Tile::kColumnQuads;
    const int token = column / p_.group;
    if (i >= Tile::kQueryQuads || token >= row.num_tokens) return -1;
    const int q_head = head * p_.group + column - token * p_.group;
    return (static_cast<int64_t>(row.token_begin + token) * p_.num_q_heads + q_head) * Tile::kHeadDim +
           (i - column * Tile::kColumnQuads) * 4;
  }

  __device__ RawQuads read_quads(int64_t at) const {
    RawQuads raw = {};
    if (at < 0) return raw;
#pragma unroll
    for (int part = 0; part < Tile::kQuadParts; ++part) {
      raw.part[part] = read_quad(p_.q, p_.q_dtype, at + part * (Tile::kColumnQuads * 4));
    }
    return raw;
  }

  __device__ void put_quads(int i, const RawQuads& raw, int buffer) const {
    float x[Tile::kQuadParts][4];
#pragma unroll
    for (int part = 0; part < Tile::kQuadParts; ++part) widen_quad(raw.part[part], p_.q_dtype, x[part]);
    if constexpr (Stored::kMayRotate) {
      if (p_.is_rotated != 0) rotate_quads(x);
    }
    if (i >= Tile::kQueryQuads) return;
    const int column = i / Tile::kColumnQuads;
#pragma unroll
    for (int part = 0; part < Tile::kQuadParts; ++part) {
      put_quad(column, (i - column * Tile::kColumnQuads + part * Tile::kColumnQuads) * 4, x[part], buffer);
    }
  }

  __device__ void put_quad(int column, int dim, const float (&x)[4], int buffer) const {
    uint16_t* query = reinterpret_cast<uint16_t*>(smem_ + Tile::kQueryAt + buffer * Tile::kQueryBytes);
    const auto place = [&](int i) {
      const QuerySlot to = Stored::query_slot(dim + i);
      const int fragment = (to.step * Tile::kTiles + (column >> 3)) * 32 + (column & 7) * 4 + to.t;
      return query + fragment * 4 + to.half * 2 + to.upper;
    };
    const uint32_t low = Stored::pack(clamp_to_f16(x[0]), clamp_to_f16(x[1]));
    const uint32_t high = Stored::pack(clamp_to_f16(x[2]), clamp_to_f16(x[3]));
    if constexpr (Stored::query_slot(1).upper == 1) {
      *reinterpret_cast<uint32_t*>(place(0)) = low;
      *reinterpret_cast<uint32_t*>(place(2)) = high;
    } else {
      *place(0) = static_cast<uint16_t>(low), *place(1) = static_cast<uint16_t>(low >> 16);
      *place(2) = static_cast<uint16_t>(high), *place(3) = static_cast<uint16_t>(high >> 16);
    }
  }

  struct QueryPlace {
    int64_t at[Tile::kQueryAhead ? Tile::kQueryShare : 1];
  };

  __device__ void find_query(int head, const PlanRow& row, QueryPlace& place) const {
#pragma unroll
    for (int u = 0; u < Tile::kQueryShare; ++u) {
      place.at[u] = find_quads(u * Tile::kThreads + static_cast<int>(threadIdx.x), head, row);
    }
  }

  // Starts the loads of an item's Q; put_query may be called a whole item later.
  __device__ void fetch_query(const QueryPlace& place, QueryShare& share) const {
#pragma unroll
    for (int u = 0; u < Tile::kQueryShare; ++u) share.raw[u] = read_quads(place.at[u]);
  }

  __device__ void put_query(const QueryShare& share, int buffer) const {
#pragma unroll
    for (int u = 0; u < Tile::kQueryShare; ++u) put_quads(u * Tile::kThreads + threadIdx.x, share.raw[u], buffer);
  }

  __device__ void store_query(int head, const PlanRow& row, int buffer) const {
#pragma unroll 1
    for (int u = 0; u < Tile::kQueryShare; ++u) {
      const int i = u * Tile::kThreads + static_cast<int>(threadIdx.x);
      put_quads(i, read_quads(find_quads(i, head, row)), buffer);
    }
  }

  __device__ void load_query(int buffer) {
    query_ = reinterpret_cast<const uint2*>(smem_ + Tile::kQueryAt + buffer * Tile::kQueryBytes) + lane_;
    if constexpr (Tile::kQueryInRegisters) {
#pragma unroll
      for (int i = 0; i < Tile::kDimSteps * Tile::kTiles; ++i) query_registers_[i] = query_[i * 32];
    }
  }

  __device__ uint2 query_fragment(int dim_step, int tile) const {
    const int i = dim_step * Tile::kTiles + tile;
    if constexpr (Tile::kQueryInRegisters) return query_registers_[i];
    return query_[i * 32];
  }

  // One step: kStepTokens keys, in shared memory at `at`.
  __device__ void take_step(uint32_t at, int key, const ItemView& view, Accumulator<Tile>& acc) {
    float s[Tile::kGranules][Tile::kTiles][4] = {};
#pragma unroll
    for (int pair = 0; pair < Tile::kKeyPairs; ++pair) {
#pragma unroll
      for (int granule = 0; granule < Tile::kGranules; ++granule) {
        uint32_t raw[4];
        ldmatrix_x4(raw, at + granule * Tile::kGranuleBytes + key_offset_[pair]);
        if constexpr (Stored::kKeyScales == KvScales::kGroups) {
          multiply_groups(raw, at, granule, pair, s[granule]);
        } else {
#pragma unroll
          for (int i = 0; i < Stored::kKeySteps; ++i) multiply_keys(raw, pair, i, s[granule]);
        }
      }
    }

    if constexpr (Stored::kKeyScales == KvScales::kRow) scale_scores(s, at);
    float to_log2 = view.score_scale;
    if (p_.logit_softcap > 0) {
      soft_cap(s, view.score_scale);
      to_log2 = 1.0f;
    }
    const int first_position = view.row.kv_end - view.row.num_tokens;
    const bool inside = key + Tile::kStepTokens <= first_position + 1 &&
                        (p_.sliding_window <= 0 || key > view.row.kv_end - 1 - p_.sliding_window);
    if (!inside) {
      hide_keys(s, key, first_position);
      clear_values(at, key, view.row);
    }
    softmax(s, to_log2, acc);

    // One set of weights for all of V, or, where V's scales are those of groups, one for each of a pair's two chunks.
    constexpr bool kByGroups = Stored::kValueScales == KvScales::kGroups;
    Weights weights[kByGroups ? 2 : 1];
    if constexpr (!kByGroups) pack_weights(s, load_value_scales(at, 0, acc), weights[0]);
#pragma unroll
    for (int pair = 0; pair < Tile::kValuePairs; ++pair) {
      if constexpr (kByGroups) {
#pragma unroll
        for (int chunk = 0; chunk < 2; ++chunk) {
          const int group = 2 * pair + chunk;
          if (group < Tile::kValueChunks) pack_weights(s, load_value_scales(at, group, acc), weights[chunk]);
        }
      }
#pragma unroll
      for (int granule = 0; granule < Tile::kGranules; ++granule) {
        uint32_t raw[4];
        ldmatrix_x4_trans(raw, at + granule * Tile::kGranuleBytes + Tile::kValueAt +
                                   (kSameRows ? key_offset_[pair] : value_offset_[kSameRows ? 0 : pair]));
#pragma unroll
        for (int i = 0; i < Stored::kValueSteps; ++i) {
          const int dim_step = pair * Stored::kValueSteps + i;
          if (dim_step >= Tile::kDimSteps) break;
          uint32_t a[4];
          Stored::value_fragment(raw, i, a);
          const Weights& w = weights[kByGroups ? i * 2 / Stored::kValueSteps : 0];
#pragma unroll
          for (int n = 0; n < Tile::kTiles; ++n) {
#pragma unroll
            for (int part = 0; part < Stored::kWeightParts; ++part) {
              Stored::mma(acc.o[dim_step][n], a, w.of[part][granule][n][0], w.of[part][granule][n][1]);
            }
          }
        }
      }
    }
  }

  // Step i of a chunk pair's keys, of one granule.
  __device__ void multiply_keys(const uint32_t (&raw)[4], int pair, int i, float (&s)[Tile::kTiles][4]) const {
    const int dim_step = pair * Stored::kKeySteps + i;
    if (dim_step >= Tile::kDimSteps) return;
    uint32_t a[4];
    Stored::key_fragment(raw, i, a);
#pragma unroll
    for (int n = 0; n < Tile::kTiles; ++n) {
      const uint2 b = query_fragment(dim_step, n);
      Stored::mma(s[n], a, b.x, b.y);
    }
  }

  // A chunk pair's keys of one granule, each chunk's product times its tokens' scales.
  __device__ void multiply_groups(const uint32_t (&raw)[4], uint32_t at, int granule, int pair,
                                  float (&s)[Tile::kTiles][4]) const {
#pragma unroll
    for (int chunk = 0; chunk < 2; ++chunk) {
      const int group = 2 * pair + chunk;
      if (group >= Tile::kKeyChunks) return;
      float part[Tile::kTiles][4] = {};
#pragma unroll
      for (int i = 0; i < Stored::kKeySteps / 2; ++i) {
        multiply_keys(raw, pair, chunk * (Stored::kKeySteps / 2) + i, part);
      }
#pragma unroll
      for (int octet = 0; octet < 2; ++octet) {
        const float scale = group_scale(at, granule, octet, Tile::kKeyScalesAt, group);
#pragma unroll
        for (int n = 0; n < Tile::kTiles; ++n) {
          s[n][octet * 2] += part[n][octet * 2] * scale;
          s[n][octet * 2 + 1] += part[n][octet * 2 + 1] * scale;
        }
      }
    }
  }

  // This lane's scale of token 8 octet + g of a granule.
  __device__ float token_scale(uint32_t at, int granule, int octet, int scales_at) const {
    return load_shared(at + granule * Tile::kGranuleBytes + scales_at + (octet * 8 + (lane_ >> 2)) * 4);
  }

  // The same of one group of dims.
  __device__ float group_scale(uint32_t at, int granule, int octet, int scales_at, int group) const {
    return load_shared_half(at + granule * Tile::kGranuleBytes + scales_at +
                            (group * kGranuleTokens + octet * 8 + (lane_ >> 2)) * 2);
  }

  __device__ void scale_scores(float (&s)[Tile::kGranules][Tile::kTiles][4], uint32_t at) const {
#pragma unroll
    for (int granule = 0; granule < Tile::kGranules; ++granule) {
#pragma unroll
      for (int octet = 0; octet < 2; ++octet) {
        const float scale = token_scale(at, granule, octet, Tile::kKeyScalesAt);
#pragma unroll
        for (int n = 0; n < Tile::kTiles; ++n) {
          s[granule][n][octet * 2] *= scale;
          s[granule][n][octet * 2 + 1] *= scale;
        }
      }
    }
  }

  static constexpr bool kHasValueScales = Stored::kValueScales != KvScales::kNone;

  // V's scales of this lane's tokens, in the accumulator's unit: below 1.
  struct ValueScales {
    float of[kHasValueScales ? Tile::kGranules : 1][2];
  };

  // group: 0, or which dims' scales. Positive floats compare as their bits do.
  __device__ ValueScales load_value_scales(uint32_t at, int group, Accumulator<Tile>& acc) const {
    ValueScales scales = {};
    if constexpr (!kHasValueScales) return scales;
    uint32_t largest = 0;
#pragma unroll
    for (int granule = 0; granule < (kHasValueScales ? Tile::kGranules : 0); ++granule) {
#pragma unroll
      for (int octet = 0; octet < 2; ++octet) {
        float& scale = scales.of[granule][octet];
        scale = Stored::kValueScales == KvScales::kRow
                    ? token_scale(at, granule, octet, Tile::kValueScalesAt)
                    : group_scale(at, granule, octet, Tile::kValueScalesAt, group);
        largest = max(largest, __float_as_uint(scale));
      }
    }
    largest = __reduce_max_sync(~0u, largest);
    if (largest >= acc.unit[group]) raise_unit(largest, group, acc);
    const float inverse = inverse_of(acc.unit[group]);
#pragma unroll
    for (int granule = 0; granule < (kHasValueScales ? Tile::kGranules : 0); ++granule) {
#pragma unroll
      for (int octet = 0; octet < 2; ++octet) scales.of[granule][octet] *= inverse;
    }
    return scales;
  }

  // 1 / unit, exactly.
  __device__ static float inverse_of(uint32_t unit) { return __uint_as_float(0x7F000000u - unit); }

  __device__ void raise_unit(uint32_t largest, int group, Accumulator<Tile>& acc) const {
    const uint32_t raised = min((largest & 0x7F800000u) + 0x00800000u, kMostUnit);
    const float factor = __uint_as_float(acc.unit[group]) * inverse_of(raised);
    acc.unit[group] = raised;
    constexpr int kStepsOfUnit = Tile::kDimSteps / Tile::kUnits;
#pragma unroll
    for (int d = 0; d < kStepsOfUnit; ++d) {
#pragma unroll
      for (int n = 0; n < Tile::kTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) acc.o[group * kStepsOfUnit + d][n][i] *= factor;
      }
    }
  }

  __device__ void soft_cap(float (&s)[Tile::kGranules][Tile::kTiles][4], float scale) const {
    const float inner = scale / p_.logit_softcap;
    const float outer = p_.logit_softcap * kLog2E;
#pragma unroll
    for (int granule = 0; granule < Tile::kGranules; ++granule) {
#pragma unroll
      for (int n = 0; n < Tile::kTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) s[granule][n][i] = outer * tanhf(s[granule][n][i] * inner);
      }
    }
  }

  // Scores of keys that a column's query does not see become -inf, whatever they were.
  __device__ void hide_keys(float (&s)[Tile::kGranules][Tile::kTiles][4], int key, int first_position) const {
#pragma unroll
    for (int n = 0; n < Tile::kTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int position = first_position + (n * 8 + 2 * (lane_ & 3) + e) / p_.group;
        const int oldest = p_.sliding_window > 0 ? position - p_.sliding_window + 1 : 0;
#pragma unroll
        for (int granule = 0; granule < Tile::kGranules; ++granule) {
#pragma unroll
          for (int octet = 0; octet < 2; ++octet) {
            const int j = key + granule * kGranuleTokens + octet * 8 + (lane_ >> 2);
            if (j > position || j < oldest) s[granule][n][octet * 2 + e] = kNegInf;
          }
        }
      }
    }
  }

  // Zeroes V of keys that no query of the row sees: such slots may hold anything, and 0 x NaN is NaN.
  __device__ void clear_values(uint32_t at, int key, const PlanRow& row) const {
    uint8_t* base = smem_ + (at - smem_address(smem_));
    if constexpr (kHasValueScales) {
      for (int i = lane_; i < Tile::kStepTokens; i += 32) {
        if (key + i >= row.kv_begin && key + i < row.kv_end) continue;
        uint8_t* scales = base + (i >> 4) * Tile::kGranuleBytes + Tile::kValueScalesAt;
        if constexpr (Stored::kValueScales == KvScales::kRow) {
          reinterpret_cast<float*>(scales)[i & 15] = 0.0f;
        } else {
#pragma unroll
          for (int group = 0; group < Tile::kUnits; ++group) {
            reinterpret_cast<uint16_t*>(scales)[group * kGranuleTokens + (i & 15)] = 0;
          }
        }
      }
    }
    if constexpr (Stored::kHasNan) clear_codes(base, key, row);
    fence_before_copy();
    __syncwarp();
  }

  __device__ void clear_codes(uint8_t* base, int key, const PlanRow& row) const {
    for (int i = lane_; i < Tile::kStepTokens * Tile::kValueChunks; i += 32) {
      const int token = i & 15;
      const int granule = (i >> 4) / Tile::kValueChunks;
      const int j = key + granule * kGranuleTokens + token;
      if (j >= row.kv_begin && j < row.kv_end) continue;
      const int chunk = (i >> 4) % Tile::kValueChunks;
      *reinterpret_cast<uint4*>(base + granule * Tile::kGranuleBytes + Tile::kValueAt +
                                chunk_offset(Tile::kValueRowBytes, token, chunk)) = make_uint4(0, 0, 0, 0);
    }
  }

  // Updates max and sum and turns scores into weights.
  __device__ void softmax(float (&s)[Tile::kGranules][Tile::kTiles][4], float to_log2, Accumulator<Tile>& acc) const {
    float top[Tile::kTiles][2];
    bool rises = false;
#pragma unroll
    for (int n = 0; n < Tile::kTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float x = kNegInf;
#pragma unroll
        for (int granule = 0; granule < Tile::kGranules; ++granule) {
          x = fmaxf(x, fmaxf(s[granule][n][e], s[granule][n][2 + e]));
        }
        top[n][e] = max_over_keys(x) * to_log2;
        rises |= top[n][e] > acc.m[n][e] + kSlack;
      }
    }
    if (__any_sync(~0u, rises)) rescale(top, acc);
#pragma unroll
    for (int n = 0; n < Tile::kTiles; ++n) {
      float offset[2];
#pragma unroll
      for (int e = 0; e < 2; ++e) offset[e] = (acc.m[n][e] == kNegInf ? 0.0f : acc.m[n][e]) - kShift;
#pragma unroll
      for (int granule = 0; granule < Tile::kGranules; ++granule) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          s[granule][n][i] = exp2_approx(s[granule][n][i] * to_log2 - offset[i & 1]);
          acc.l[n][i & 1] += s[granule][n][i];
        }
      }
    }
  }

  // Weights as B fragments of the second product.
  struct Weights {
    uint32_t of[Stored::kWeightParts][Tile::kGranules][Tile::kTiles][2];
  };

  __device__ static void pack_weights(const float (&p)[Tile::kGranules][Tile::kTiles][4], const ValueScales& scales,
                                      Weights& weights) {
#pragma unroll
    for (int granule = 0; granule < Tile::kGranules; ++granule) {
#pragma unroll
      for (int n = 0; n < Tile::kTiles; ++n) {
#pragma unroll
        for (int octet = 0; octet < 2; ++octet) {
          const float scale = kHasValueScales ? scales.of[kHasValueScales ? granule : 0][octet] : 1.0f;
          const float p0 = p[granule][n][octet * 2] * scale;
          const float p1 = p[granule][n][octet * 2 + 1] * scale;
          const uint32_t packed = Stored::pack(p0, p1);
          weights.of[0][granule][n][octet] = movmatrix_trans(packed);
          if constexpr (Stored::kWeightParts == 2) {
            const float rest0 = p0 - __uint_as_float(packed << 16);
            const float rest1 = p1 - __uint_as_float(packed & 0xFFFF0000u);
            weights.of[1][granule][n][octet] = movmatrix_trans(Stored::pack(rest0, rest1));
          }
        }
      }
    }
  }

  __device__ void rescale(const float (&top)[Tile::kTiles][2], Accumulator<Tile>& acc) const {
#pragma unroll
    for (int n = 0; n < Tile::kTiles; ++n) {
      float factor[2];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float raised = fmaxf(acc.m[n][e], top[n][e]);
        factor[e] = raised == kNegInf ? 1.0f : exp2_approx(acc.m[n][e] - raised);
        acc.m[n][e] = raised;
        acc.l[n][e] *= factor[e];
      }
#pragma unroll
      for (int d = 0; d < Tile::kDimSteps; ++d) {
#pragma unroll
        for (int i = 0; i < 4; ++i) acc.o[d][n][i] *= factor[i & 1];
      }
    }
  }

  // --- Merging ---------------------------------------------------------------------------------------------------

  __device__ float* merge_sums(int buffer, int warp) const {
    return reinterpret_cast<float*>(smem_ + Tile::kMergeAt + (buffer * Tile::kWarps + warp) * Tile::kMergeBytes);
  }

  __device__ float2* merge_stats(int buffer, int warp) const {
    return reinterpret_cast<float2*>(merge_sums(buffer, warp) + 8 * Tile::kMergeStride);
  }

  // Whose results a block adds to its own of an item: those of ranges first, first + stride, .. And whether it then sends
  // the sum to the item's first block.
  struct Gathering {
    int members_end;  // takes in ranges own + 1 .. members_end - 1
    int leaders_end;  // and every kMergeGroup-th from members_end on, before this
    bool sends;
  };

  // Where an item's ranges are many, groups of them are merged first: one block could not read them all in good time.
  //
  //   ranges:   0 1 .. 11 | 12 13 .. 23 | 24 ..
  //   sends to: - 0 ..  0 |  0 12 .. 12 |  0 24 ..
  //
  // A range sends of its first item only: one slot a range is enough. Blocks are numbered from the last range, so they
  // wait for blocks that were started before them.
  __device__ static Gathering find_gathering(int own, int head_range, int tail_range) {
    const int index = own - head_range;
    const int end = tail_range + 1;
    if (end - head_range <= kMaxFlatMerge) return {index == 0 ? end : own, 0, index != 0};
    if (index % kMergeGroup != 0) return {own, 0, true};
    return {min(own + kMergeGroup, end), index == 0 ? end : 0, index != 0};
  }

  // Merges the warps' results of an item, 8 columns at a time, and writes the output, or sends the result where another
  // block finishes the item.
  __device__ void finish_item(int item, const ItemView& view, Accumulator<Tile>& acc) {
    const PlanRange& range = shared_range();
    const int head_range = item == range.item_begin ? range.head_range : range.index;
    const int tail_range = item == range.item_last    ? range.tail_range
                           : item == range.item_begin ? range.begin_tail_range
                                                      : range.index;
    const Gathering gathering = find_gathering(range.index, head_range, tail_range);
#pragma unroll
    for (int n = 0; n < Tile::kTiles; ++n) {
      const int used = min(view.row.num_tokens * p_.group - n * 8, 8);
      if (used <= 0) break;
      put_columns(n, used, acc);
      __syncthreads();
      merge_columns(n, used, range.index, gathering, view);
      if constexpr (Tile::kMergeBuffers == 1) __syncthreads();
      merge_buffer_ ^= Tile::kMergeBuffers - 1;
    }
  }

  // This warp's columns of tile n, as rows of head_dim floats.
  __device__ void put_columns(int n, int used, const Accumulator<Tile>& acc) const {
    float* sums = merge_sums(merge_buffer_, warp_);
    const int g = lane_ >> 2;
    const int t = lane_ & 3;
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float l = sum_over_keys(acc.l[n][e]);
      const int column = 2 * t + e;
      if (g == 0) merge_stats(merge_buffer_, warp_)[column] = make_float2(acc.m[n][e], l);
      if (column >= used) continue;
      float* row = sums + column * Tile::kMergeStride;
#pragma unroll
      for (int d = 0; d < Tile::kDimSteps; ++d) {
        const DimPair dims = Stored::output_dims(d, g);
        if constexpr (Stored::kValueBits <= 8) {
          const float unit =
              kHasValueScales ? __uint_as_float(acc.unit[d / (Tile::kDimSteps / Tile::kUnits)]) : 1.0f;
          *reinterpret_cast<float2*>(row + dims.first) = make_float2(acc.o[d][n][e] * unit, acc.o[d][n][2 + e] * unit);
        } else {
          row[dims.first] = acc.o[d][n][e];
          row[dims.second] = acc.o[d][n][2 + e];
        }
      }
    }
  }

  // Four dims of a column, merged.
  struct Quad {
    float top;
    float l;
    float4 sum;
  };

  // Merges the warps' results of tile n, four dims at a time, adds what other blocks send, and finishes the output or
  // sends the result on.
  //
  //   threads:  | column 0: dims 0-3 | 4-7 | .. | column 1: dims 0-3 | ..       (kQuadParts 2: and dims 128 higher)
  //
  // Where the output may have to be turned back, whole warps stay together: neighbours exchange values.
  __device__ void merge_columns(int n, int used, int own, const Gathering& gathering, const ItemView& view) const {
    constexpr int kParts = Tile::kQuadParts;
    constexpr int kQuads = Tile::kColumnQuads;
    const int count = used * kQuads;
    const int end = Stored::kMayRotate ? (count + 31) / 32 * 32 : count;
    for (int i = threadIdx.x; i < end; i += Tile::kThreads) {
      const bool is_used = !Stored::kMayRotate || i < count;
      const int column = is_used ? i / kQuads : 0;
      const int dim = is_used ? (i - column * kQuads) * 4 : 0;
      Quad merged[kParts];
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const int quad = (n * 8 + column) * (Tile::kHeadDim / 4) + dim / 4 + part * kQuads;
        merged[part] = merge_warps(column, dim + part * kQuads * 4);
        if (!is_used) continue;
        take_in(own + 1, 1, gathering.members_end - own - 1, quad, merged[part]);
        take_in(gathering.members_end, kMergeGroup,
                (gathering.leaders_end - gathering.members_end + kMergeGroup - 1) / kMergeGroup, quad, merged[part]);
        if (gathering.sends) send(own, quad, merged[part]);
      }
      if (!gathering.sends) finish_column(view, n * 8 + column, dim, merged, is_used);
    }
  }

  __device__ Quad merge_warps(int column, int dim) const {
    Quad merged = {kNegInf, 0, make_float4(0, 0, 0, 0)};
#pragma unroll
    for (int w = 0; w < Tile::kWarps; ++w) {
      merged.top = fmaxf(merged.top, merge_stats(merge_buffer_, w)[column].x);
    }
#pragma unroll
    for (int w = 0; w < Tile::kWarps; ++w) {
      const float2 stat = merge_stats(merge_buffer_, w)[column];
      add_scaled(merged, stat,
                 *reinterpret_cast<const float4*>(merge_sums(merge_buffer_, w) + column * Tile::kMergeStride + dim));
    }
    return merged;
  }

  // Adds a result with (max, sum) stat, where max is no more than the whole's.
  __device__ static void add_scaled(Quad& whole, float2 stat, float4 x) {
    const float weight = exp2_approx(stat.x - whole.top);
    const auto add = [&](float& sum, float part) { sum = stat.x == kNegInf ? sum : fmaf(part, weight, sum); };
    add(whole.l, stat.y);
    add(whole.sum.x, x.x), add(whole.sum.y, x.y), add(whole.sum.z, x.z), add(whole.sum.w, x.w);
  }

  // A range's slot: float4 sums [column][four dims] | float2 (max, sum) of the same, for each thread its own.
  __device__ float4* slot_sums(int range) const {
    return reinterpret_cast<float4*>(p_.slots + static_cast<int64_t>(range) * Tile::kSlotFloats);
  }

  __device__ float2* slot_stats(int range) const {
    return reinterpret_cast<float2*>(slot_sums(range) + Tile::kColumns * (Tile::kHeadDim / 4));
  }

  // The receiver sees each word by itself, and none may look empty.
  __device__ void send(int own, int quad, const Quad& sum) const {
    const auto word = [](float x) {
      const uint32_t bits = __float_as_uint(x);
      return bits == kEmptyWord ? kEmptyWord >> 1 : bits;  // a NaN for another
    };
    store_words(slot_sums(own) + quad, make_uint4(word(sum.sum.x), word(sum.sum.y), word(sum.sum.z), word(sum.sum.w)));
    store_words(slot_stats(own) + quad, make_uint2(word(sum.top), word(sum.l)));
  }

  // Adds what ranges first, first + stride, .. send of a quad, in their order, and leaves their places empty.
  __device__ void take_in(int first, int stride, int count, int quad, Quad& whole) const {
    constexpr int kBatch = Tile::kTiles == 1 && Tile::kQuadParts == 1 ? 8 : 4;  // whose loads are in flight together
    const int64_t step = static_cast<int64_t>(stride) * (Tile::kSlotFloats / 4);  // in float4
    float4* sums = slot_sums(first) + quad;
    // Of the same slot as a place of sums.
    const auto stats_of = [&](float4* from) {
      return reinterpret_cast<float2*>(from - quad + Tile::kColumns * (Tile::kHeadDim / 4)) + quad;
    };
    for (int begin = 0; begin < count; begin += kBatch, sums += kBatch * step) {
      uint4 sum[kBatch];
      uint2 stat[kBatch];
      bool complete;
      do {
        complete = true;
#pragma unroll
        for (int k = 0; k < kBatch; ++k) {
          float4* from = sums + min(k, count - 1 - begin) * step;
          sum[k] = load_words(from);
          stat[k] = load_words(stats_of(from));
        }
#pragma unroll
        for (int k = 0; k < kBatch; ++k) {
          complete &= sum[k].x != kEmptyWord && sum[k].y != kEmptyWord && sum[k].z != kEmptyWord &&
                      sum[k].w != kEmptyWord && stat[k].x != kEmptyWord && stat[k].y != kEmptyWord;
        }
      } while (!complete);
      float raised = whole.top;
#pragma unroll
      for (int k = 0; k < kBatch; ++k) raised = fmaxf(raised, __uint_as_float(stat[k].x));  // those past the end repeat
      raise(whole, raised);
#pragma unroll
      for (int k = 0; k < kBatch; ++k) {
        if (begin + k >= count) break;
        add_scaled(whole, make_float2(__uint_as_float(stat[k].x), __uint_as_float(stat[k].y)),
                   make_float4(__uint_as_float(sum[k].x), __uint_as_float(sum[k].y), __uint_as_float(sum[k].z),
                               __uint_as_float(sum[k].w)));
        store_words(sums + k * step, make_uint4(kEmptyWord, kEmptyWord, kEmptyWord, kEmptyWord));
        store_words(stats_of(sums + k * step), make_uint2(kEmptyWord, kEmptyWord));
      }
    }
  }

  __device__ static void raise(Quad& whole, float top) {
    if (top == kNegInf) return;
    const float factor = exp2_approx(whole.top - top);
    whole.top = top;
    whole.l *= factor;
    whole.sum = make_float4(whole.sum.x * factor, whole.sum.y * factor, whole.sum.z * factor, whole.sum.w * factor);
  }

  // Some dims of the final output of a column; the lane with dim 0 writes the LSE too. A query without keys gives 0.
  template <int kParts>
  __device__ void finish_column(const ItemView& view, int column, int dim, const Quad (&merged)[kParts],
                                bool is_used) const {
    const int token = column / p_.group;
    const int q_head = view.head * p_.group + column - token * p_.group;
    const int64_t index = static_cast<int64_t>(view.row.token_begin + token) * p_.num_q_heads + q_head;
    float top = merged[0].top;
    float l = merged[0].l;
    if (p_.sinks != nullptr) {
      const float sink = p_.sinks[q_head] * kLog2E;
      if (top == kNegInf) top = sink;
      l += exp2_approx(sink - top + kShift);
    }
    const float factor = l > 0 ? view.value_scale / l : (l == 0 ? 0.0f : l);
    float x[kParts][4];
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const float4 sum = merged[part].sum;
      x[part][0] = sum.x * factor, x[part][1] = sum.y * factor;
      x[part][2] = sum.z * factor, x[part][3] = sum.w * factor;
    }
    if constexpr (Stored::kMayRotate) {
      if (p_.is_rotated != 0) rotate_quads(x);
    }
    if (!is_used) return;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      write_output(p_, index * Tile::kHeadDim + dim + part * (Tile::kHeadDim / kParts),
                   make_float4(x[part][0], x[part][1], x[part][2], x[part][3]));
    }
    if (p_.lse != nullptr && dim == 0) p_.lse[index] = l == 0 ? kNegInf : (top - kShift + log2f(l)) * kLn2;
  }

  // H x of a column's dims as quads lie over lanes.
  template <int kParts>
  __device__ static void rotate_quads(float (&x)[kParts][4]) {
    constexpr int kBlock = rotation_block(Tile::kHeadDim);
    const auto turn = [](float& low, float& high) {
      const float sum = low + high;
      high = low - high;
      low = sum;
    };
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      turn(x[part][0], x[part][1]), turn(x[part][2], x[part][3]);
      turn(x[part][0], x[part][2]), turn(x[part][1], x[part][3]);
#pragma unroll
      for (int distance = 1; distance < kBlock / 4 / kParts; distance *= 2) {
        const float sign = (threadIdx.x & distance) != 0 ? -1.0f : 1.0f;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          x[part][i] = fmaf(x[part][i], sign, __shfl_xor_sync(~0u, x[part][i], distance));
        }
      }
    }
    const float norm = 1.0f / sqrtf(static_cast<float>(kBlock));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (kParts == 2) turn(x[0][i], x[1][i]);
#pragma unroll
      for (int part = 0; part < kParts; ++part) x[part][i] *= norm;
    }
  }

  const DecodeParams& p_;
  uint8_t* smem_;
  int warp_;
  int lane_;
  int merge_buffer_ = 0;
  // Of this lane's ldmatrix row, V's only where its rows are not as long as K's.
  static constexpr bool kSameRows = Tile::kKeyRowBytes == Tile::kValueRowBytes;
  uint32_t key_offset_[Tile::kKeyPairs];
  uint32_t value_offset_[kSameRows ? 1 : Tile::kValuePairs];
  const uint2* query_;
  uint2 query_registers_[Tile::kQueryInRegisters ? Tile::kDimSteps * Tile::kTiles : 1];
};

// The wide tiles run where 227 KB of shared memory are, the narrow ones elsewhere; the other body is left out.
#if !defined(__CUDA_ARCH__)
constexpr bool kCompiledWide = true;
#else
constexpr bool kCompiledWide = __CUDA_ARCH__ >= 900 && __CUDA_ARCH__ < 1200;
#endif

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1) decode_kernel(const __grid_constant__ DecodeParams p) {
  if constexpr (Tile::kWide == kCompiledWide) {
    extern __shared__ __align__(1024) uint8_t smem[];
    DecodeBlock<Tile>(p, smem).run();
  }
}

}  // namespace octavo
