// How the results of an item's warps and blocks become its output. Of an item cut by a range's edge every block but the
// first sends its result to the first, which adds them in the ranges' order, so that results are the same bits in every
// run. A result travels as words that the receiver waits for one by one: one trip through the second-level cache.
#pragma once

#include "arch/words.cuh"
#include "attn/decode_parts.cuh"

namespace octavo {

constexpr int kMaxFlatMerge = 24;  // partial results of an item that one block takes in
constexpr int kMergeGroup = 12;    // else about the square root of the most there are, in two rounds

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

__device__ inline float sum_over_keys(float x) {
  x += __shfl_xor_sync(~0u, x, 4);
  x += __shfl_xor_sync(~0u, x, 8);
  return x + __shfl_xor_sync(~0u, x, 16);
}

template <class Tile>
class DecodeMerge {
  using Stored = typename Tile::Stored;

 protected:
  __device__ DecodeMerge(const DecodeParams& p, uint8_t* smem)
      : p_(p), smem_(smem), warp_(threadIdx.x >> 5), lane_(threadIdx.x & 31) {}

  // The block's range, where it takes no registers.
  __device__ PlanRange& shared_range() const { return *reinterpret_cast<PlanRange*>(smem_ + Tile::kRangeAt); }

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

  const DecodeParams& p_;
  uint8_t* smem_;
  int warp_;
  int lane_;

 private:
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
              Stored::kValueScales != KvScales::kNone ? __uint_as_float(acc.unit[d / (Tile::kDimSteps / Tile::kUnits)]) : 1.0f;
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
      if (p_.is_rotated != 0) rotate_quads<Tile::kHeadDim>(x);
    }
    if (!is_used) return;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      write_output(p_, index * Tile::kHeadDim + dim + part * (Tile::kHeadDim / kParts),
                   make_float4(x[part][0], x[part][1], x[part][2], x[part][3]));
    }
    if (p_.lse != nullptr && dim == 0) p_.lse[index] = l == 0 ? kNegInf : (top - kShift + log2f(l)) * kLn2;
  }

  int merge_buffer_ = 0;
};

}  // namespace octavo
