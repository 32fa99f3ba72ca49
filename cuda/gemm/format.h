// The formats of weights: how a file stores them (GGML's block formats) and how they are packed for the kernels.
//
// Packed layout. 16 rows form a strip; a lane of a vector is one of its rows, so no kernel ever adds across lanes.
//
//   matrix:  [strip 0][strip 1] ...                 rows beyond the matrix are zero
//   strip:   [file block 0][file block 1] ...       each covers block_cols columns of all 16 rows
//   block:   [scales][quants of columns 0-31][quants of columns 32-63] ...
//
// Quants are unsigned numbers u of low_bits + high_bits bits. A quad is 4 neighbouring columns of all rows: 64 bytes
// [row][column], one vector register. 32 columns are 8 quads; several share 64 bytes so that a mask and a shift get
// them:
//
//   low 8 bits:  64 bytes per quad                       low 2 bits:  byte h holds quads 4h .. 4h+3, from bit 0 up
//   low 4 bits:  byte j holds quad j | quad j + 4 << 4   high 1 bit:  bit q is quad q's;  high 2 bits: as low 2 bits
//
// Scales come as 16 values side by side, one a row, in the order below. A weight is
//   scale * (u - offset), or scale * u + minimum for formats with minimums.
// F32, F16 and BF16 have neither: [column][16 rows].
#pragma once

#include <cstdint>

#include "arch/host_device.h"
#include "octavo.h"

namespace octavo {

constexpr int kStripRows = 16;
constexpr int kBlockCols = 32;  // columns that share a scale of the activations
constexpr int kQuads = kBlockCols / 4;

enum class Scales {
  kNone,          // plain elements
  kHalf,          // d: f16
  kHalfMinimum,   // d, minimum: f16
  kInt8,          // d: f16; then a signed byte a group: scale = d * byte
  kSplit6,        // d: f16; low 4 bits of a block's two groups in a byte; then two blocks' high 2 bits in a byte; -32
  kByteMinimum,   // d, -dmin: f16; then two bytes a block: scale = d * first, minimum = -dmin * second
  kNibbleMinimum  // d, -dmin: f16; then a byte a group: scale = d * low nibble, minimum = -dmin * high nibble
};

struct Format {
  octavo_dtype dtype;
  const char* name;
  int block_cols;   // columns of a block in the file
  int block_bytes;  // and its bytes
  int low_bits;
  int high_bits;
  int offset;
  int groups;  // scales per 32 columns: 1 or 2
  Scales scales;
  bool lookup;  // quants are indices of kIq4Values, whose entries have the offset in them

  OCTAVO_HOST_DEVICE constexpr int blocks() const { return block_cols / kBlockCols; }
  OCTAVO_HOST_DEVICE constexpr bool minimums() const {
    return scales == Scales::kHalfMinimum || scales == Scales::kByteMinimum || scales == Scales::kNibbleMinimum;
  }
  // Bytes of the scales and of all of a file block, 16 rows.
  constexpr int scale_bytes() const {
    switch (scales) {
      case Scales::kNone:
        return 0;
      case Scales::kHalf:
        return 32;
      case Scales::kHalfMinimum:
        return 64;
      case Scales::kInt8:
        return 32 + kStripRows * blocks() * groups;
      case Scales::kSplit6:
        return 32 + kStripRows * (blocks() + blocks() / 2);
      case Scales::kByteMinimum:
        return 64 + kStripRows * blocks() * 2;
      case Scales::kNibbleMinimum:
        return 64 + kStripRows * blocks() * groups;
    }
    return 0;
  }
  constexpr int packed_bytes() const { return scale_bytes() + kStripRows * block_cols * (low_bits + high_bits) / 8; }
};

// clang-format off
inline constexpr Format kFormats[] = {
    // dtype        name    cols bytes low high offset groups scales             lookup
    {OCTAVO_F32,    "F32",    1,   4, 32, 0,   0, 1, Scales::kNone,           false},
    {OCTAVO_F16,    "F16",    1,   2, 16, 0,   0, 1, Scales::kNone,           false},
    {OCTAVO_BF16,   "BF16",   1,   2, 16, 0,   0, 1, Scales::kNone,           false},
    {OCTAVO_Q4_0,   "Q4_0",  32,  18,  4, 0,   8, 1, Scales::kHalf,           false},
    {OCTAVO_Q4_1,   "Q4_1",  32,  20,  4, 0,   0, 1, Scales::kHalfMinimum,    false},
    {OCTAVO_Q5_0,   "Q5_0",  32,  22,  4, 1,  16, 1, Scales::kHalf,           false},
    {OCTAVO_Q5_1,   "Q5_1",  32,  24,  4, 1,   0, 1, Scales::kHalfMinimum,    false},
    {OCTAVO_Q8_0,   "Q8_0",  32,  34,  8, 0, 128, 1, Scales::kHalf,           false},
    {OCTAVO_Q2_K,   "Q2_K", 256,  84,  2, 0,   0, 2, Scales::kNibbleMinimum,  false},
    {OCTAVO_Q3_K,   "Q3_K", 256, 110,  2, 1,   4, 2, Scales::kSplit6,         false},
    {OCTAVO_Q4_K,   "Q4_K", 256, 144,  4, 0,   0, 1, Scales::kByteMinimum,    false},
    {OCTAVO_Q5_K,   "Q5_K", 256, 176,  4, 1,   0, 1, Scales::kByteMinimum,    false},
    {OCTAVO_Q6_K,   "Q6_K", 256, 210,  4, 2,  32, 2, Scales::kInt8,           false},
    {OCTAVO_IQ4_NL, "IQ4_NL", 32, 18,  4, 0, 128, 1, Scales::kHalf,           true},
    {OCTAVO_IQ4_XS, "IQ4_XS", 256, 136, 4, 0, 128, 1, Scales::kInt8,          true},
};
// clang-format on
inline constexpr int kNumFormats = sizeof kFormats / sizeof kFormats[0];

// The values of IQ4_NL and IQ4_XS plus their offset of 128 (GGML's kvalues_iq4nl).
alignas(16) inline constexpr uint8_t kIq4Values[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                                       129, 141, 153, 166, 181, 197, 217, 241};

// Eight of them as one number, the first in its lowest byte.
OCTAVO_HOST_DEVICE constexpr uint64_t iq4_half(int first) {
  uint64_t half = 0;
  for (int i = 0; i < 8; ++i) half |= static_cast<uint64_t>(kIq4Values[first + i]) << (8 * i);
  return half;
}

// kIq4Values[quant], without a table in memory: device code may use it.
OCTAVO_HOST_DEVICE inline int iq4_value(int quant) {
  constexpr uint64_t kLow = iq4_half(0), kHigh = iq4_half(8);
  return static_cast<int>((quant < 8 ? kLow : kHigh) >> (8 * (quant % 8)) & 0xFF);
}

// Index in kFormats, or -1.
int find_format(int32_t dtype);

// Bytes of rows x cols elements of dtype as they lie in a file, or 0 when dtype is unknown or cols is not a multiple of
// its block length. Computed without overflow for any int32 rows and cols.
uint64_t tensor_bytes(int32_t dtype, int32_t rows, int32_t cols);

}  // namespace octavo
