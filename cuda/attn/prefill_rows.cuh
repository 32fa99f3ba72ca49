// What both prefill kernels do with scores and output in fragments: lane = 4 g + t holds, of 16 rows and an octet of
// columns, rows g (elements 0, 1) and g + 8 (2, 3), columns 2t and 2t + 1.
//
// Softmax is in base 2, as in decode: weights are 2^(s - m + kPrefillShift), and m lags behind the true maximum by at
// most kPrefillSlack, so that the sums are rescaled rarely.
#pragma once

#include "arch/ptx.cuh"
#include "attn/prefill.h"

namespace octavo {

constexpr float kPrefillShift = 7.0f;
constexpr float kPrefillSlack = 8.0f;
constexpr float kMostWeight = 32768.0f;  // 2^(7 + 8) < 65504
constexpr float kLog2OfE = 1.4426950408889634f;
constexpr float kLnOf2 = 0.6931471805599453f;
constexpr float kHidden = -INFINITY;

// The token of a row of a sequence.
__device__ inline int token_of(const PrefillParams& p, int row) { return divide_row(row, p.group_reciprocal); }

// The two rows of a lane in 16 rows of a tile.
struct RowPair {
  int32_t position[2];  // of the rows' tokens
  float m[2];           // running maximum, base 2
  float l[2];           // running sum over this lane's keys
};

// row: of the sequence, the lane's first.
__device__ inline RowPair open_rows(const PrefillParams& p, const PrefillTile& tile, int row) {
  RowPair rows;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int last = tile.row_begin + tile.num_rows - 1;  // rows past the tile repeat its last
    rows.position[r] = tile.first_position + token_of(p, min(row + 8 * r, last));
    rows.m[r] = kHidden;
    rows.l[r] = 0.0f;
  }
  return rows;
}

// Turns products into scores in base 2 up to the factor that is returned.
template <int kOctets>
__device__ float cap_scores(const PrefillParams& p, float score_scale, float (&s)[kOctets][4]) {
  if (p.logit_softcap <= 0) return score_scale * kLog2OfE;
  const float inner = __fdividef(2 * kLog2OfE * score_scale, p.logit_softcap);
  const float outer = p.logit_softcap * kLog2OfE;
#pragma unroll
  for (int j = 0; j < kOctets; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) s[j][i] = outer - __fdividef(2 * outer, exp2_approx(s[j][i] * inner) + 1.0f);
  }
  return 1.0f;
}

// Hides keys [key, key + 8 kOctets) that a row does not see, whatever their scores were.
template <int kOctets>
__device__ void hide_keys(const PrefillParams& p, const RowPair& rows, int key, float (&s)[kOctets][4]) {
  const int first = key + 2 * (threadIdx.x & 3);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int newest = rows.position[r] - first;
    const int oldest = p.sliding_window > 0 ? newest - p.sliding_window + 1 : -first;
#pragma unroll
    for (int j = 0; j < kOctets; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        if (8 * j + e > newest || 8 * j + e < oldest) s[j][2 * r + e] = kHidden;
      }
    }
  }
}

// The highest of a lane's own scores of each row, base 2.
template <int kOctets>
__device__ void find_top(float to_log2, const float (&s)[kOctets][4], float (&top)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float x = fmaxf(s[0][2 * r], s[0][2 * r + 1]);
#pragma unroll
    for (int j = 1; j < kOctets; ++j) x = fmaxf(x, fmaxf(s[j][2 * r], s[j][2 * r + 1]));
    top[r] = x * to_log2;
  }
}

// Whether maxima lag behind too far for weights that sum up to `sum` in a lane. Whole warp.
__device__ inline bool must_rise(const float (&sum)[2], const RowPair& rows) {
  return __any_sync(~0u, sum[0] > kMostWeight || sum[1] > kMostWeight || rows.m[0] == kHidden || rows.m[1] == kHidden);
}

// Raises the maxima. Earlier sums and outputs of the rows are worth `factor` of what they were (l is corrected here).
// Whole warp.
__device__ inline void raise_maxima(const float (&top)[2], RowPair& rows, float (&factor)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float raised = fmaxf(rows.m[r], top[r]);
    raised = fmaxf(raised, __shfl_xor_sync(~0u, raised, 1));
    raised = fmaxf(raised, __shfl_xor_sync(~0u, raised, 2));
    factor[r] = raised == kHidden ? 1.0f : exp2_approx(rows.m[r] - raised);
    rows.m[r] = raised;
    rows.l[r] *= factor[r];
  }
}

// What a row's scores in base 2 are lowered by.
__device__ inline float weight_offset(float m) { return (m == kHidden ? 0.0f : m) - kPrefillShift; }

// The exponents of scores' weights: s * to_log2 - offset, in place.
template <int kOctets>
__device__ void lower_scores(float to_log2, const RowPair& rows, float (&s)[kOctets][4]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float offset = weight_offset(rows.m[r]);
#pragma unroll
    for (int j = 0; j < kOctets; ++j) {
      s[j][2 * r] = s[j][2 * r] * to_log2 - offset;
      s[j][2 * r + 1] = s[j][2 * r + 1] * to_log2 - offset;
    }
  }
}

// Weights of exponents, packed as fragments of the next product: octets 2 i and 2 i + 1 are the keys of its step i.
// `sum`: of a lane's weights of each row.
template <bool kBf16, int kOctets>
__device__ void weigh_packed(const float (&s)[kOctets][4], uint32_t (&weights)[kOctets / 2][4], float (&sum)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float part[2] = {0.0f, 0.0f};
#pragma unroll
    for (int j = 0; j < kOctets; ++j) {
      const float x = exp2_approx(s[j][2 * r]);
      const float y = exp2_approx(s[j][2 * r + 1]);
      part[0] += x, part[1] += y;
      weights[j / 2][j % 2 * 2 + r] = kBf16 ? pack_bf16x2(x, y) : pack_f16x2(x, y);
    }
    sum[r] = part[0] + part[1];
  }
}

// Raises the maxima to those of the exponents s, which are lowered accordingly. Earlier sums and outputs of the rows are
// worth `factor` of what they were (l is corrected here). Whole warp.
template <int kOctets>
__device__ void raise_maxima(RowPair& rows, float (&s)[kOctets][4], float (&factor)[2]) {
  float top[2];
  find_top(1.0f, s, top);
  const float offset[2] = {weight_offset(rows.m[0]), weight_offset(rows.m[1])};
  top[0] += offset[0], top[1] += offset[1];
  raise_maxima(top, rows, factor);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float less = offset[r] - weight_offset(rows.m[r]);
#pragma unroll
    for (int j = 0; j < kOctets; ++j) s[j][2 * r] += less, s[j][2 * r + 1] += less;
  }
}

// Turns scores into weights, in place, and adds them to the sums. True when maxima rose: earlier outputs of the rows are
// worth `factor` of what they were. Whole warp.
template <int kOctets>
__device__ bool weigh(float to_log2, RowPair& rows, float (&s)[kOctets][4], float (&factor)[2]) {
  float top[2];
  find_top(to_log2, s, top);
  const bool rises =
      __any_sync(~0u, top[0] > rows.m[0] + kPrefillSlack || top[1] > rows.m[1] + kPrefillSlack);
  if (rises) raise_maxima(top, rows, factor);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float offset = weight_offset(rows.m[r]);
    float sum[2] = {0.0f, 0.0f};
#pragma unroll
    for (int j = 0; j < kOctets; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        s[j][2 * r + e] = exp2_approx(s[j][2 * r + e] * to_log2 - offset);
        sum[e] += s[j][2 * r + e];
      }
    }
    rows.l[r] += sum[0] + sum[1];
  }
  return rises;
}

template <int kOctets>
__device__ void rescale_output(const float (&factor)[2], float (&o)[kOctets][4]) {
#pragma unroll
  for (int j = 0; j < kOctets; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) o[j][i] *= factor[i >> 1];
  }
}

// Where a finished row goes, and what its sums are multiplied by.
struct RowEnd {
  int64_t index;  // of its first output element; negative: the row is not the tile's
  float factor;
};

// The scales that a kv head's K and V are stored by.
__device__ inline float key_scale(const PrefillParams& p, int head) {
  return p.scales != nullptr ? p.scales[head] : 1.0f;
}

__device__ inline float value_scale(const PrefillParams& p, int head) {
  return p.scales != nullptr ? p.scales[p.kv.num_kv_heads + head] : 1.0f;
}

// Adds up the row's sum over the lanes, brings in sink and V's scale, writes the LSE. Whole warp.
__device__ inline RowEnd close_row(const PrefillParams& p, const PrefillTile& tile, int head, int row, float m, float l,
                                   float v_scale) {
  l += __shfl_xor_sync(~0u, l, 1);
  l += __shfl_xor_sync(~0u, l, 2);
  if (row >= tile.row_begin + tile.num_rows) return {-1, 0.0f};
  const int token = token_of(p, row);
  const int q_head = head * p.group + row - token * p.group;
  const int64_t index = static_cast<int64_t>(tile.token_begin + token) * p.num_q_heads + q_head;
  if (p.sinks != nullptr) {
    const float sink = p.sinks[q_head] * kLog2OfE;
    if (m == kHidden) m = sink;
    l += exp2_approx(sink - m + kPrefillShift);
  }
  if (p.lse != nullptr && (threadIdx.x & 3) == 0) {
    p.lse[index] = l == 0 ? kHidden : (m - kPrefillShift + log2f(l)) * kLnOf2;
  }
  return {index * p.head_dim, l > 0 ? __fdividef(v_scale, l) : (l == 0 ? 0.0f : l)};
}

// Two adjacent elements of the output.
__device__ inline void write_pair(const PrefillParams& p, int64_t index, float x, float y) {
  if (p.q_dtype == OCTAVO_F32)
    *reinterpret_cast<float2*>(static_cast<float*>(p.out) + index) = make_float2(x, y);
  else
    *reinterpret_cast<uint32_t*>(static_cast<uint16_t*>(p.out) + index) =
        p.q_dtype == OCTAVO_BF16 ? pack_bf16x2(x, y) : pack_f16x2(x, y);
}

// 16 consecutive elements of a q of 16 bits.
struct RawQuery {
  uint4 chunk[2];
};

__device__ inline RawQuery load_query(const void* q, int64_t index) {
  const uint4* from = reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(q) + index);
  return {from[0], from[1]};
}

// Beyond f16's range only poison is found; NaN stays NaN.
template <bool kBf16>
__device__ uint32_t pack_query(float x, float y) {
  if constexpr (kBf16) return pack_bf16x2(x, y);
  const auto clamp = [](float v) { return fabsf(v) > 65504.0f ? copysignf(65504.0f, v) : v; };
  return pack_f16x2(clamp(x), clamp(y));
}

// As eight pairs of f16 or bf16.
template <bool kBf16>
__device__ void convert_query(const RawQuery& raw, int dtype, uint32_t (&pairs)[8]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    pairs[4 * i] = raw.chunk[i].x, pairs[4 * i + 1] = raw.chunk[i].y;
    pairs[4 * i + 2] = raw.chunk[i].z, pairs[4 * i + 3] = raw.chunk[i].w;
  }
  if (dtype == (kBf16 ? OCTAVO_BF16 : OCTAVO_F16)) return;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (dtype == OCTAVO_BF16) {
      pairs[i] = pack_query<kBf16>(__uint_as_float(pairs[i] << 16), __uint_as_float(pairs[i] & 0xFFFF0000u));
    } else {
      const float2 two = __half22float2(*reinterpret_cast<const __half2*>(&pairs[i]));
      pairs[i] = pack_query<kBf16>(two.x, two.y);
    }
  }
}

// 16 consecutive elements of q of any type as eight pairs of f16 or bf16.
template <bool kBf16>
__device__ void read_query(const void* q, int dtype, int64_t index, uint32_t (&pairs)[8]) {
  if (dtype == OCTAVO_F32) {
    const float4* from = reinterpret_cast<const float4*>(static_cast<const float*>(q) + index);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float4 four = from[i];
      pairs[2 * i] = pack_query<kBf16>(four.x, four.y);
      pairs[2 * i + 1] = pack_query<kBf16>(four.z, four.w);
    }
    return;
  }
  convert_query<kBf16>(load_query(q, index), dtype, pairs);
}

// Index of a row's first element in q. row: of the sequence.
__device__ inline int64_t query_index(const PrefillParams& p, const PrefillTile& tile, int head, int row) {
  const int token = token_of(p, row);
  return (static_cast<int64_t>(tile.token_begin + token) * p.num_q_heads + head * p.group + row - token * p.group) *
         p.head_dim;
}

// The page that holds a key; ids are kept inside the pool.
__device__ inline int32_t find_page(const PrefillParams& p, int seq, int key) {
  const int32_t id = p.page_table[static_cast<int64_t>(seq) * p.max_pages + (key >> p.kv.page_shift)];
  return static_cast<int32_t>(min(static_cast<uint32_t>(id), static_cast<uint32_t>(p.num_pages - 1)));
}

// Keys are taken from here on, in whole granules.
__device__ inline int first_key(const PrefillTile& tile) { return tile.kv_begin & ~(kGranuleTokens - 1); }

// Whether every row from `position` (the lowest) to the tile's last sees all of keys [key, key + count).
__device__ inline bool all_visible(const PrefillParams& p, const PrefillTile& tile, int position, int key, int count) {
  return key + count <= position + 1 && (p.sliding_window <= 0 || key >= tile.kv_end - p.sliding_window);
}

}  // namespace octavo
