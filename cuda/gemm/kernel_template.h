// The matrix kernels, written once over a format and a Simd (the vectors of an instruction set; see simd_*.h).
// All of it is in an unnamed namespace: each file that includes it gets its own, compiled for its instruction set.
#pragma once

#include "gemm/kernel.h"

namespace octavo {
namespace {

// The unsigned quants of 32 columns of 16 / kParts rows, in quads.
template <class Simd, int kFormat>
inline __attribute__((always_inline)) void unpack(const uint8_t* quants, int part, typename Simd::Bytes quads[kQuads]) {
  constexpr Format format = kFormats[kFormat];
  using Bytes = typename Simd::Bytes;
  const uint8_t* high = quants + 64 * format.low_bits;
#pragma GCC unroll 8
  for (int q = 0; q < kQuads; ++q) {
    if constexpr (format.low_bits == 8) quads[q] = Simd::load(quants + 64 * q, part);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    if constexpr (format.low_bits == 4) {
      const Bytes both = Simd::load(quants + 64 * j, part);
      quads[j] = Simd::mask(both, 0x0F);
      quads[j + 4] = Simd::mask(Simd::template shift<-4>(both), 0x0F);
    }
  }
  if constexpr (format.low_bits == 2) {
    const Bytes first = Simd::load(quants, part), second = Simd::load(quants + 64, part);
    quads[0] = Simd::mask(first, 3);
    quads[1] = Simd::mask(Simd::template shift<-2>(first), 3);
    quads[2] = Simd::mask(Simd::template shift<-4>(first), 3);
    quads[3] = Simd::mask(Simd::template shift<-6>(first), 3);
    quads[4] = Simd::mask(second, 3);
    quads[5] = Simd::mask(Simd::template shift<-2>(second), 3);
    quads[6] = Simd::mask(Simd::template shift<-4>(second), 3);
    quads[7] = Simd::mask(Simd::template shift<-6>(second), 3);
  }
  // Bits that a 16-bit shift carries into the neighbouring byte fall outside the mask.
  if constexpr (format.high_bits == 1) {
    constexpr int low = format.low_bits, bit = 1 << low;
    const Bytes bits = Simd::load(high, part);
    quads[0] = Simd::merge(quads[0], Simd::template shift<low>(bits), bit);
    quads[1] = Simd::merge(quads[1], Simd::template shift<low - 1>(bits), bit);
    quads[2] = Simd::merge(quads[2], Simd::template shift<low - 2>(bits), bit);
    quads[3] = Simd::merge(quads[3], Simd::template shift<low - 3>(bits), bit);
    quads[4] = Simd::merge(quads[4], Simd::template shift<low - 4>(bits), bit);
    quads[5] = Simd::merge(quads[5], Simd::template shift<low - 5>(bits), bit);
    quads[6] = Simd::merge(quads[6], Simd::template shift<low - 6>(bits), bit);
    quads[7] = Simd::merge(quads[7], Simd::template shift<low - 7>(bits), bit);
  }
  if constexpr (format.high_bits == 2) {
    constexpr int low = format.low_bits, bits = 3 << low;
    const Bytes first = Simd::load(high, part), second = Simd::load(high + 64, part);
    quads[0] = Simd::merge(quads[0], Simd::template shift<low>(first), bits);
    quads[1] = Simd::merge(quads[1], Simd::template shift<low - 2>(first), bits);
    quads[2] = Simd::merge(quads[2], Simd::template shift<low - 4>(first), bits);
    quads[3] = Simd::merge(quads[3], Simd::template shift<low - 6>(first), bits);
    quads[4] = Simd::merge(quads[4], Simd::template shift<low>(second), bits);
    quads[5] = Simd::merge(quads[5], Simd::template shift<low - 2>(second), bits);
    quads[6] = Simd::merge(quads[6], Simd::template shift<low - 4>(second), bits);
    quads[7] = Simd::merge(quads[7], Simd::template shift<low - 6>(second), bits);
  }
#pragma GCC unroll 8
  for (int q = 0; q < kQuads; ++q) {
    if constexpr (format.lookup) quads[q] = Simd::lookup(quads[q], kIq4Values);
  }
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

// y += weights * x for 32 columns of every token:
//
//          16 rows -->            x: 4 activations of one token, broadcast to every row
//   quad 0 [r0: c0 c1 c2 c3][r1: c0 c1 c2 c3] ...   dot  [x0 x1 x2 x3][x0 x1 x2 x3] ...
//   quad 1 [r0: c4 c5 c6 c7] ...                         [x4 x5 x6 x7] ...
//   sum over the quads of a group -> int32 a row -> f32, times scale of the row, times scale of the activations
template <class Simd, int kFormat, int kTokens>
inline __attribute__((always_inline)) void multiply_block(const uint8_t* packed, int block, int part,
                                                          const Activation* x, typename Simd::Floats y[kTokens]) {
  constexpr Format format = kFormats[kFormat];
  constexpr int scale_bytes = format.scale_bytes(), quant_bytes = 64 * (format.low_bits + format.high_bits);
  constexpr int group_quads = kQuads / format.groups;
  typename Simd::Bytes quads[kQuads];
  typename Simd::Floats scale[2], minimum[2];
  unpack<Simd, kFormat>(packed + scale_bytes + quant_bytes * block, part, quads);
  load_scales<Simd, kFormat>(packed, block, part, scale, minimum);
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    const auto x_scale = Simd::broadcast(x[t].scale);
#pragma GCC unroll 2
    for (int g = 0; g < format.groups; ++g) {
      auto sum = Simd::start(format.minimums() ? 0 : x[t].start[g]);
#pragma GCC unroll 8
      for (int q = group_quads * g; q < group_quads * (g + 1); ++q) Simd::dot(sum, quads[q], x[t], q);
      y[t] = Simd::fma(Simd::to_floats(Simd::finish(sum)), Simd::mul(scale[g], x_scale), y[t]);
      if constexpr (format.minimums()) y[t] = Simd::fma(minimum[g], Simd::broadcast(x[t].sum[g]), y[t]);
    }
  }
}

template <class Simd, int kTokens>
inline __attribute__((always_inline)) void store_tile(const Tile& tile,
                                                      const typename Simd::Floats y[Simd::kParts][kTokens]) {
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 4
    for (int part = 0; part < Simd::kParts; ++part) {
      constexpr int lanes = kStripRows / Simd::kParts;
      const int rows = tile.num_rows - lanes * part;
      if (rows > 0) Simd::store(y[part][t], tile.y + t * tile.y_stride + lanes * part, rows < lanes ? rows : lanes);
    }
  }
}

template <class Simd, int kFormat, int kTokens>
void multiply_quantized(const Tile& tile) {
  constexpr Format format = kFormats[kFormat];
  constexpr int packed_bytes = format.packed_bytes(), blocks = format.blocks();
  typename Simd::Floats y[Simd::kParts][kTokens];
#pragma GCC unroll 4
  for (int part = 0; part < Simd::kParts; ++part) {
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) y[part][t] = Simd::broadcast(0);
  }
  const uint8_t* packed = tile.weights;
  const Activation* x = tile.activations;
  for (int64_t col = 0; col < tile.cols; col += format.block_cols, packed += packed_bytes) {
    for (int block = 0; block < blocks; ++block, x += kTokens) {
#pragma GCC unroll 4
      for (int part = 0; part < Simd::kParts; ++part) {
        multiply_block<Simd, kFormat, kTokens>(packed, block, part, x, y[part]);
      }
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
#pragma GCC unroll 4
  for (int part = 0; part < Simd::kParts; ++part) {
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) y[part][t] = Simd::broadcast(0);
  }
  const uint8_t* packed = tile.weights;
  for (int64_t first = 0; first < tile.cols; first += kBlockCols, packed += kBlockCols * col_bytes) {
    const int64_t cols = tile.cols - first < kBlockCols ? tile.cols - first : kBlockCols;
#pragma GCC unroll 4
    for (int part = 0; part < Simd::kParts; ++part) {
      typename Simd::Floats sum[kTokens];
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) sum[t] = Simd::broadcast(0);
      for (int64_t col = 0; col < cols; ++col) {
        const auto weights = Simd::template load_elements<format.dtype>(packed + col_bytes * col, part);
#pragma GCC unroll 8
        for (int t = 0; t < kTokens; ++t) {
          sum[t] = Simd::fma(weights, Simd::broadcast(tile.x[t * tile.x_stride + first + col]), sum[t]);
        }
      }
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) y[part][t] = Simd::add(y[part][t], sum[t]);
    }
  }
  store_tile<Simd, kTokens>(tile, y);
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
