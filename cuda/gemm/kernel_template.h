// The matrix kernels, written once over a format and a Simd (the vectors of an instruction set; see simd_*.h).
// All of it is in an unnamed namespace: each file that includes it gets its own, compiled for its instruction set.
#pragma once

#include <utility>

#include "gemm/kernel.h"

namespace octavo {
namespace {

// Weights are fetched this far ahead, across strips and, for most matrices, into the next one: the next to be used.
constexpr int kPrefetchBytes = 4096;

template <int kValue>
struct Constant {
  static constexpr int value = kValue;
};

template <int... kValues, class Body>
inline __attribute__((always_inline)) void unroll_list(std::integer_sequence<int, kValues...>, const Body& body) {
  (body(Constant<kValues>{}), ...);
}

// body(Constant<0>{}), body(Constant<1>{}) ... body(Constant<kCount - 1>{})
template <int kCount, class Body>
inline __attribute__((always_inline)) void unroll(const Body& body) {
  unroll_list(std::make_integer_sequence<int, kCount>{}, body);
}

// The unsigned quants of quad kQuad of 32 columns, 16 / kParts rows of them.
template <class Simd, int kFormat, int kQuad>
inline __attribute__((always_inline)) typename Simd::Bytes unpack(const uint8_t* quants, int part) {
  constexpr Format format = kFormats[kFormat];
  constexpr int low = format.low_bits;
  using Bytes = typename Simd::Bytes;
  const uint8_t* high = quants + 64 * low;
  Bytes quad;
  if constexpr (low == 8) quad = Simd::load(quants + 64 * kQuad, part);
  if constexpr (low == 4) {
    quad = Simd::mask(Simd::template shift<-(kQuad / 4 * 4)>(Simd::load(quants + 64 * (kQuad % 4), part)), 15);
  }
  if constexpr (low == 2) {
    quad = Simd::mask(Simd::template shift<-(kQuad % 4 * 2)>(Simd::load(quants + 64 * (kQuad / 4), part)), 3);
  }
  // Bits that a 16-bit shift carries into the neighbouring byte fall outside the mask.
  if constexpr (format.high_bits == 1) {
    quad = Simd::merge(quad, Simd::template shift<low - kQuad>(Simd::load(high, part)), 1 << low);
  }
  if constexpr (format.high_bits == 2) {
    const Bytes bits = Simd::load(high + 64 * (kQuad / 4), part);
    quad = Simd::merge(quad, Simd::template shift<low - kQuad % 4 * 2>(bits), 3 << low);
  }
  if constexpr (format.lookup) quad = Simd::lookup(quad, kIq4Values);
  return quad;
}

// The scales (and minimums) of 32 columns, block `block` of a file block, one or two groups.
template <class Simd, int kFormat>
inline __attribute__((always_inline)) void load_scales(const uint8_t* packed, int block, int part,
                                                       typename Simd::Floats scale[2],
                                                       typename Simd::Floats minimum[2]) {
  constexpr Format format = kFormats[kFormat];
  using Floats = typename Simd::Floats;
  const Floats d = Simd::load_half(packed, part);
  if constexpr (format.scales == Scales::kHalf) scale[0] = d;
  if constexpr (format.scales == Scales::kHalfMinimum) {
    scale[0] = d;
    minimum[0] = Simd::load_half(packed + 32, part);
  }
  if constexpr (format.scales == Scales::kInt8) {
    const uint8_t* bytes = packed + 32 + kStripRows * format.groups * block;
    for (int g = 0; g < format.groups; ++g) {
      scale[g] = Simd::mul(d, Simd::to_floats(Simd::load_int8(bytes + kStripRows * g, part)));
    }
  }
  if constexpr (format.scales == Scales::kSplit6) {
    const auto low = Simd::load_uint8(packed + 32 + kStripRows * block, part);
    const auto high = Simd::load_uint8(packed + 32 + kStripRows * (format.blocks() + block / 2), part);
    for (int g = 0; g < 2; ++g) {
      const auto bits = Simd::bits(high, 4 * (block % 2) + 2 * g, 3);
      scale[g] =
          Simd::mul(d, Simd::to_floats(Simd::add(Simd::add(Simd::bits(low, 4 * g, 15), Simd::times16(bits)), -32)));
    }
  }
  if constexpr (format.scales == Scales::kByteMinimum) {
    const uint8_t* bytes = packed + 64 + kStripRows * 2 * block;
    scale[0] = Simd::mul(d, Simd::to_floats(Simd::load_uint8(bytes, part)));
    minimum[0] =
        Simd::mul(Simd::load_half(packed + 32, part), Simd::to_floats(Simd::load_uint8(bytes + kStripRows, part)));
  }
  if constexpr (format.scales == Scales::kNibbleMinimum) {
    const Floats dmin = Simd::load_half(packed + 32, part);
    for (int g = 0; g < 2; ++g) {
      const auto both = Simd::load_uint8(packed + 64 + kStripRows * (2 * block + g), part);
      scale[g] = Simd::mul(d, Simd::to_floats(Simd::bits(both, 0, 15)));
      minimum[g] = Simd::mul(dmin, Simd::to_floats(Simd::bits(both, 4, 15)));
    }
  }
}

// y += weights * x for 32 columns of some tokens:
//
//          16 rows -->            x: 4 activations of one token, broadcast to every row
//   quad 0 [r0: c0 c1 c2 c3][r1: c0 c1 c2 c3] ...   dot  [x0 x1 x2 x3][x0 x1 x2 x3] ...
//   quad 1 [r0: c4 c5 c6 c7] ...                         [x4 x5 x6 x7] ...
//   sum over the quads of a group -> int32 a row -> f32, times scale of the row, times scale of the activations
//
// Quads outside, tokens inside: each quad is unpacked once, and the tokens' sums do not wait for each other.
template <class Simd, int kFormat, int kTokens>
inline __attribute__((always_inline)) void multiply_block(const uint8_t* packed, int block, int part,
                                                          const Activation* x, typename Simd::Floats y[kTokens]) {
  constexpr Format format = kFormats[kFormat];
  constexpr int quant_bytes = 64 * (format.low_bits + format.high_bits), group_quads = kQuads / format.groups;
  const uint8_t* quants = packed + format.scale_bytes() + quant_bytes * block;
  typename Simd::Floats scale[2], minimum[2];
  load_scales<Simd, kFormat>(packed, block, part, scale, minimum);
  unroll<format.groups>([&](auto group) {
    constexpr int g = group.value;
    typename Simd::Sum sums[kTokens];
    unroll<kTokens>([&](auto t) { sums[t.value] = Simd::start(format.minimums() ? 0 : x[t.value].start[g]); });
    unroll<group_quads>([&](auto index) {
      // 4-bit quads q and q + 4 share their bytes: one after the other.
      constexpr bool shared = format.low_bits == 4 && group_quads == kQuads;
      constexpr int q = shared ? index.value / 2 + index.value % 2 * 4 : group_quads * g + index.value;
      const auto quad = unpack<Simd, kFormat, q>(quants, part);
      unroll<kTokens>([&](auto t) { Simd::dot(sums[t.value], quad, x[t.value], q); });
    });
    unroll<kTokens>([&](auto token) {
      constexpr int t = token.value;
      const auto both_scales = Simd::mul(scale[g], Simd::broadcast(x[t].scale));
      y[t] = Simd::fma(Simd::to_floats(Simd::finish(sums[t])), both_scales, y[t]);
      if constexpr (format.minimums()) y[t] = Simd::fma(minimum[g], Simd::broadcast(x[t].sum[g]), y[t]);
    });
  });
}

template <class Simd, int kTokens>
inline __attribute__((always_inline)) void store_tile(const Tile& tile,
                                                      const typename Simd::Floats y[Simd::kParts][kTokens]) {
  constexpr int lanes = kStripRows / Simd::kParts;
  float* const first = tile.y;
  const int64_t stride = tile.y_stride;
  const int num_rows = tile.num_rows;
  unroll<kTokens>([&](auto t) {
    unroll<Simd::kParts>([&](auto part) {
      const int rows = num_rows - lanes * part.value;
      float* out = first + t.value * stride + lanes * part.value;
      if (rows > 0) Simd::store(y[part.value][t.value], out, rows < lanes ? rows : lanes);
    });
  });
}

template <class Simd, int kFormat, int kTokens>
void multiply_quantized(const Tile& tile) {
  constexpr Format format = kFormats[kFormat];
  constexpr int packed_bytes = format.packed_bytes(), blocks = format.blocks();
  // Tokens whose sums fit the registers; y of the others waits in memory.
  constexpr int tokens_at_once = kTokens < Simd::kTokensAtOnce ? kTokens : Simd::kTokensAtOnce;
  typename Simd::Floats y[Simd::kParts][kTokens];
  unroll<Simd::kParts>(
      [&](auto part) { unroll<kTokens>([&](auto t) { y[part.value][t.value] = Simd::broadcast(0); }); });
  const uint8_t* packed = tile.weights;
  const Activation* x = tile.activations;
  for (int64_t col = 0; col < tile.cols; col += format.block_cols, packed += packed_bytes) {
    for (int block = 0; block < blocks; ++block, x += kTokens) {
      constexpr int block_bytes = packed_bytes / blocks;
      unroll<(block_bytes + 63) / 64>(
          [&](auto line) { __builtin_prefetch(packed + block_bytes * block + 64 * line.value + kPrefetchBytes); });
      unroll<Simd::kParts>([&](auto part) {
        unroll<kTokens / tokens_at_once>([&](auto index) {
          constexpr int first = index.value * tokens_at_once;
          multiply_block<Simd, kFormat, tokens_at_once>(packed, block, part.value, x + first, y[part.value] + first);
        });
      });
    }
  }
  store_tile<Simd, kTokens>(tile, y);
}

// F32, F16, BF16: sums of 32 columns in order, then their sum in order, so that one sum's additions overlap the next's.
template <class Simd, int kFormat, int kTokens>
void multiply_elements(const Tile& tile) {
  constexpr Format format = kFormats[kFormat];
  constexpr int col_bytes = kStripRows * format.block_bytes;
  typename Simd::Floats y[Simd::kParts][kTokens];
  unroll<Simd::kParts>(
      [&](auto part) { unroll<kTokens>([&](auto t) { y[part.value][t.value] = Simd::broadcast(0); }); });
  const uint8_t* packed = tile.weights;
  for (int64_t first = 0; first < tile.cols; first += kBlockCols, packed += kBlockCols * col_bytes) {
    const int64_t cols = tile.cols - first < kBlockCols ? tile.cols - first : kBlockCols;
    const float* x = tile.x + first;
    unroll<Simd::kParts>([&](auto part) {
      typename Simd::Floats sums[kTokens];
      unroll<kTokens>([&](auto t) { sums[t.value] = Simd::broadcast(0); });
      for (int64_t col = 0; col < cols; ++col) {
        if (part.value == 0) __builtin_prefetch(packed + col_bytes * col + kPrefetchBytes);
        const auto weights = Simd::template load_elements<format.dtype>(packed + col_bytes * col, part.value);
        unroll<kTokens>([&](auto t) {
          sums[t.value] = Simd::fma(weights, Simd::broadcast(x[t.value * tile.x_stride + col]), sums[t.value]);
        });
      }
      unroll<kTokens>([&](auto t) { y[part.value][t.value] = Simd::add(y[part.value][t.value], sums[t.value]); });
    });
  }
  store_tile<Simd, kTokens>(tile, y);
}

// arrange() of kernels that multiply 16-bit pairs (vpmaddwd) with the even and the odd bytes of the weights: data[2q]
// holds activations 0 and 2 of quad q, data[2q + 1] its 1 and 3.
[[maybe_unused]] inline void arrange_pairs(const int32_t rounded[kBlockCols], int32_t data[16]) {
  for (int i = 0; i < 16; ++i) {
    const int32_t* pair = rounded + 4 * (i / 2) + i % 2;
    data[i] = (pair[0] & 0xFFFF) | pair[2] * 65536;
  }
}

// Rounds 32 activations. Infinities and NaN give a NaN scale, so that the row of y is NaN.
template <class Simd, int kFormat>
inline void quantize_block(const float* x, Activation* out) {
  constexpr Format format = kFormats[kFormat];
  constexpr float kLargest = 32512;     // 127 * 256: the larger of two signed bytes holds it
  constexpr float kRounder = 12582912;  // 1.5 * 2^23: added to |x| < 2^22, leaves x rounded to even in the low bits
  constexpr int32_t kRounderBits = 0x4B400000;
  constexpr int32_t kInfinityBits = 0x7F800000;
  constexpr int group_cols = kBlockCols / format.groups;
  int32_t largest_bits = 0;  // of |x|; as integers NaN > infinity > finite numbers
  for (int i = 0; i < kBlockCols; ++i) {
    int32_t bits;
    __builtin_memcpy(&bits, x + i, sizeof bits);
    bits &= 0x7FFFFFFF;
    largest_bits = bits > largest_bits ? bits : largest_bits;
  }
  float largest;
  __builtin_memcpy(&largest, &largest_bits, sizeof largest);
  const bool finite = largest_bits < kInfinityBits;
  const bool zero = !finite || largest < 1e-30f;  // below, the reciprocal would overflow
  const float inverse = zero ? 0 : kLargest / largest;
  int32_t rounded[kBlockCols];
  for (int i = 0; i < kBlockCols; ++i) {
    const float shifted = x[i] * inverse + kRounder;
    int32_t bits;
    __builtin_memcpy(&bits, &shifted, sizeof bits);
    rounded[i] = zero ? 0 : bits - kRounderBits;
  }
  out->scale = finite ? (zero ? 0 : largest / kLargest) : __builtin_nanf("");
  Simd::arrange(rounded, out->data);
  for (int g = 0; g < format.groups; ++g) {
    int32_t sum = 0;
    for (int i = 0; i < group_cols; ++i) sum += rounded[group_cols * g + i];
    if constexpr (format.minimums()) {
      out->sum[g] = out->scale * static_cast<float>(sum);
    } else {
      out->start[g] = -format.offset * sum;
    }
  }
}

template <class Simd, int kFormat>
void quantize_row(const float* x, int64_t cols, Activation* out, int stride) {
  for (int64_t col = 0; col < cols; col += kBlockCols, out += stride) quantize_block<Simd, kFormat>(x + col, out);
}

template <class Simd, int kFormat>
constexpr Kernel make_kernel() {
  if constexpr (kFormats[kFormat].scales == Scales::kNone) {
    return {{multiply_elements<Simd, kFormat, 1>, multiply_elements<Simd, kFormat, 2>,
             multiply_elements<Simd, kFormat, 4>, multiply_elements<Simd, kFormat, 8>},
            nullptr};
  } else {
    return {{multiply_quantized<Simd, kFormat, 1>, multiply_quantized<Simd, kFormat, 2>,
             multiply_quantized<Simd, kFormat, 4>, multiply_quantized<Simd, kFormat, 8>},
            quantize_row<Simd, kFormat>};
  }
}

static_assert(kNumFormats == 15, "make_kernels lists every format");
template <class Simd>
constexpr KernelSet make_kernels() {
  return {{make_kernel<Simd, 0>(), make_kernel<Simd, 1>(), make_kernel<Simd, 2>(), make_kernel<Simd, 3>(),
           make_kernel<Simd, 4>(), make_kernel<Simd, 5>(), make_kernel<Simd, 6>(), make_kernel<Simd, 7>(),
           make_kernel<Simd, 8>(), make_kernel<Simd, 9>(), make_kernel<Simd, 10>(), make_kernel<Simd, 11>(),
           make_kernel<Simd, 12>(), make_kernel<Simd, 13>(), make_kernel<Simd, 14>()}};
}

}  // namespace
}  // namespace octavo
