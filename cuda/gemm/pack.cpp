#include "gemm/pack.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "gemm/file_block.h"

namespace octavo {
namespace {

void write_half(uint16_t half, int lane, uint8_t* p) { std::memcpy(p + 2 * lane, &half, sizeof half); }

void write_scales(const Format& format, const FileBlock& block, int lane, uint8_t* packed) {
  write_half(block.d, lane, packed);
  if (format.minimums()) write_half(block.minimum, lane, packed + 32);
  uint8_t* bytes = packed + (format.minimums() ? 64 : 32) + lane;
  const int num_groups = format.blocks() * format.groups;
  switch (format.scales) {
    case Scales::kInt8:
    case Scales::kNibbleMinimum:
      for (int g = 0; g < num_groups; ++g) bytes[kStripRows * g] = block.group_scales[g];
      return;
    case Scales::kSplit6:
      for (int g = 0; g < num_groups; ++g) {
        const int low = block.group_scales[g] & 15, high = block.group_scales[g] >> 4;
        bytes[kStripRows * (g / 2)] |= static_cast<uint8_t>(low << (g % 2 * 4));
        bytes[kStripRows * (format.blocks() + g / 4)] |= static_cast<uint8_t>(high << (g % 4 * 2));
      }
      return;
    case Scales::kByteMinimum:
      for (int b = 0; b < format.blocks(); ++b) {
        bytes[kStripRows * 2 * b] = block.group_scales[b];
        bytes[kStripRows * (2 * b + 1)] = block.group_minimums[b];
      }
      return;
    case Scales::kNone:
    case Scales::kHalf:
    case Scales::kHalfMinimum:
      return;
  }
}

// 32 columns of one row. A word is the row's 4 bytes of a quad:
//
//   4-bit quants:   word j of the file row's quads  |  word j + 4 << 4   ->  packed[64 j + 4 lane]
template <int kLowBits, int kHighBits>
void write_quants(const uint8_t* quants, int lane, uint8_t* packed) {
  constexpr uint32_t kOnes = 0x01010101, kLowMask = ((1u << kLowBits) - 1) * kOnes,
                     kHighMask = ((1u << kHighBits) - 1) * kOnes;
  constexpr int kLowQuads = 8 / kLowBits;                         // quads that share a word of low bits
  constexpr int kHighQuads = kHighBits == 0 ? 0 : 8 / kHighBits;  // and of high bits
  uint32_t words[kQuads];
  std::memcpy(words, quants, sizeof words);
  for (int i = 0; i < kLowBits; ++i) {
    uint32_t word = 0;
    for (int j = 0; j < kLowQuads; ++j) {
      const int quad = kLowBits == 4 ? i + 4 * j : kLowQuads * i + j;
      word |= (words[quad] & kLowMask) << (kLowBits * j);
    }
    std::memcpy(packed + 64 * i + 4 * lane, &word, sizeof word);
  }
  for (int i = 0; i < kHighBits; ++i) {
    uint32_t word = 0;
    for (int j = 0; j < kHighQuads; ++j) {
      word |= (words[kHighQuads * i + j] >> kLowBits & kHighMask) << (kHighBits * j);
    }
    std::memcpy(packed + 64 * (kLowBits + i) + 4 * lane, &word, sizeof word);
  }
}

template <int kFormat>
void pack_rows(const uint8_t* const rows[kStripRows], int64_t cols, uint8_t* strip) {
  constexpr Format format = kFormats[kFormat];
  constexpr int packed_bytes = format.packed_bytes(), quant_bytes = 64 * (format.low_bits + format.high_bits);
  // All rows of a few columns at a time: what they share stays in the first cache.
  constexpr int chunk_blocks = format.block_cols == 1 ? kBlockCols : 1;
  const int64_t num_blocks = cols / format.block_cols;
  for (int64_t chunk = 0; chunk < num_blocks; chunk += chunk_blocks) {
    const int64_t end = std::min<int64_t>(num_blocks, chunk + chunk_blocks);
    for (int lane = 0; lane < kStripRows; ++lane) {
      if (rows[lane] == nullptr) continue;
      for (int64_t index = chunk; index < end; ++index) {
        const uint8_t* source = rows[lane] + index * format.block_bytes;
        uint8_t* packed = strip + index * packed_bytes;
        if constexpr (format.scales == Scales::kNone) {
          std::memcpy(packed + format.block_bytes * lane, source, format.block_bytes);
        } else {
          FileBlock block;
          read_block(format.dtype, source, block);
          write_scales(format, block, lane, packed);
          uint8_t* quants = packed + format.scale_bytes();
          for (int b = 0; b < format.blocks(); ++b, quants += quant_bytes) {
            write_quants<format.low_bits, format.high_bits>(block.quants + kBlockCols * b, lane, quants);
          }
        }
      }
    }
  }
}

using PackRows = void (*)(const uint8_t* const rows[kStripRows], int64_t cols, uint8_t* strip);
template <int... kIndices>
constexpr std::array<PackRows, kNumFormats> pack_functions(std::integer_sequence<int, kIndices...>) {
  return {pack_rows<kIndices>...};
}
constexpr std::array<PackRows, kNumFormats> kPackRows = pack_functions(std::make_integer_sequence<int, kNumFormats>{});

}  // namespace

void pack_strip(int format_index, const uint8_t* const rows[kStripRows], int64_t cols, uint8_t* strip) {
  kPackRows[static_cast<size_t>(format_index)](rows, cols, strip);
}

}  // namespace octavo
