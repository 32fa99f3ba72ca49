// The attention kernel: scores and output transposed, so that one load and conversion of K and V serves all heads of a
// group and the few queries fill the MMA's narrow side.
//
//   S^T[16 keys x 8 columns] = K[16 keys x dims] Q^T[dims x 8 columns]       column = (query token, head of the group)
//   O^T[16 dims x 8 columns] += V^T[16 dims x 16 keys] P^T[16 keys x 8 columns]
//
// A block walks its plan range; its warps take the range's steps in turn, each with its own ring of shared memory that
// copies fill ahead of time, across the edges of items. There is no barrier in the loop: warps meet once an item, to
// merge (decode_merge.cuh).
//
// Softmax is in base 2. P = 2^(s - m + kShift) keeps small weights above f16's smallest number; m lags behind the true
// maximum by at most kSlack, so that the sums are rescaled rarely. Where each token has a scale of its own, K's
// multiplies its score and V's its weight, in units of a power of two above all of V's scales seen, so that f16 holds the
// product.
#pragma once

#include "attn/decode_feed.cuh"
#include "attn/decode_merge.cuh"

namespace octavo {

template <class Tile>
class DecodeBlock : DecodeMerge<Tile> {
  using Stored = typename Tile::Stored;
  using Merge = DecodeMerge<Tile>;
  using Merge::finish_item;
  using Merge::lane_;
  using Merge::p_;
  using Merge::shared_range;
  using Merge::smem_;
  using Merge::warp_;

 public:
  __device__ DecodeBlock(const DecodeParams& p, uint8_t* smem) : Merge(p, smem) {
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
      if (p_.is_rotated != 0) rotate_quads<Tile::kHeadDim>(x);
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
