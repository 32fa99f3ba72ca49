// The interface between Matrix and the kernels, of which there is one set per instruction set.
//
// Block formats multiply integers: every 32 activations are rounded to 16-bit numbers with an f32 scale of their own
// (largest = 32512), so that the products and the sum of a block are exact in int32. Relative to the block's largest
// activation the rounding is 2^-16: closer to f32 than bf16 or f16 activations are.
#pragma once

#include <cstdint>

#include "gemm/format.h"

namespace octavo {

// 32 activations of one token.
struct alignas(16) Activation {
  int32_t data[16];  // the integers, in the kernel's order (arrange() of its Simd)
  float scale;       // x = scale * integer; NaN if one of the activations is not finite
  union {
    int32_t start[2];  // formats with an offset: -offset * (sum of the integers), a group or half of the 32
    float sum[2];      // formats with minimums: sum of the x
  };
};

// The product of one strip with the tokens of a tile.
struct Tile {
  const uint8_t* weights;  // a packed strip
  int64_t cols;
  union {
    const Activation* activations;  // [cols / 32][tokens of the tile], block formats
    const float* x;                 // [tokens of the tile][x_stride], plain elements
  };
  int64_t x_stride;
  float* y;  // [tokens of the tile][y_stride], from the strip's first row on
  int64_t y_stride;
  int num_rows;  // 1 .. 16: how many to write
};

// Tokens of a tile: 1 << index of the kernel.
constexpr int kNumTileSizes = 4;
constexpr int kMaxTileTokens = 1 << (kNumTileSizes - 1);

struct Kernel {
  void (*multiply[kNumTileSizes])(const Tile& tile);
  // cols activations of one token to out[0], out[stride], ...; nullptr for plain elements.
  void (*quantize)(const float* x, int64_t cols, Activation* out, int stride);
};

struct KernelSet {
  Kernel kernels[kNumFormats];  // in kFormats' order
};

const KernelSet& kernels_portable();
const KernelSet& kernels_avx2();
const KernelSet& kernels_avx512();
const KernelSet& kernels_avx512_vnni();

// out[cols] = one row of a packed strip, by portable code; in kFormats' order.
using DequantizeRow = void (*)(const uint8_t* strip, int64_t cols, int lane, float* out);
extern const DequantizeRow kDequantizeRow[kNumFormats];

}  // namespace octavo
