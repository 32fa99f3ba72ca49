#include "gemm/pack.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace octavo {
namespace {

// A block of a file taken apart. Scales as format.h's Scales says; halves are f16 bits.
struct FileBlock {
  uint8_t quants[256];
  uint16_t d = 0;
  uint16_t minimum = 0;       // minimum or -dmin
  uint8_t group_scales[16];   // a group's scale: signed (kInt8), 6 bits (kSplit6), 6 bits (kByteMinimum), nibbles
  uint8_t group_minimums[8];  // kByteMinimum
};

uint16_t load_half(const uint8_t* p) { return static_cast<uint16_t>(p[0] | p[1] << 8); }

// Nibbles of 32 columns: byte j holds column j and, above, column j + 16.
void read_nibbles(const uint8_t* p, uint8_t* quants) {
  for (int j = 0; j < 16; ++j) {
    quants[j] = p[j] & 15;
    quants[j + 16] = p[j] >> 4;
  }
}

// Bit j of 4 bytes is bit 4 of column j.
void read_fifth_bits(const uint8_t* p, uint8_t* quants) {
  for (int byte = 0; byte < 4; ++byte) {
    for (int bit = 0; bit < 8; ++bit) quants[8 * byte + bit] |= static_cast<uint8_t>((p[byte] >> bit & 1) << 4);
  }
}

// Q2_K, Q3_K and Q6_K: byte l of each half's 32 bytes holds columns l, l + 32, l + 64, l + 96, two bits each.
void read_pairs(const uint8_t* p, uint8_t* quants) {
  for (int group = 0; group < 8; ++group) {
    for (int l = 0; l < 32; ++l) quants[32 * group + l] = p[group / 4 * 32 + l] >> (group % 4 * 2) & 3;
  }
}

// Q4_K and Q5_K: byte l of each 32 bytes holds columns l and l + 32 of 64.
void read_wide_nibbles(const uint8_t* p, uint8_t* quants) {
  for (int group = 0; group < 8; ++group) {
    for (int l = 0; l < 32; ++l) quants[32 * group + l] = p[group / 2 * 32 + l] >> (group % 2 * 4) & 15;
  }
}

// Q3_K and Q5_K: bit g of byte l is bit kBit of column 32 g + l.
template <int kBit>
void read_high_bits(const uint8_t* p, uint8_t* quants) {
  for (int group = 0; group < 8; ++group) {
    for (int l = 0; l < 32; ++l) quants[32 * group + l] |= static_cast<uint8_t>((p[l] >> group & 1) << kBit);
  }
}

// Q4_K and Q5_K: 8 scales and 8 minimums of 6 bits in 12 bytes; the last four have their high bits in the first eight
// bytes.
void read_six_bit_scales(const uint8_t* p, FileBlock& block) {
  for (int j = 0; j < 4; ++j) {
    block.group_scales[j] = p[j] & 63;
    block.group_minimums[j] = p[j + 4] & 63;
    block.group_scales[j + 4] = static_cast<uint8_t>((p[j + 8] & 15) | p[j] >> 6 << 4);
    block.group_minimums[j + 4] = static_cast<uint8_t>(p[j + 8] >> 4 | p[j + 4] >> 6 << 4);
  }
}

void read_block(octavo_dtype dtype, const uint8_t* p, FileBlock& block) {
  uint8_t* quants = block.quants;
  constexpr uint16_t kSign = 0x8000;
  switch (dtype) {
    case OCTAVO_Q4_0:  // d, nibbles
    case OCTAVO_IQ4_NL:
      block.d = load_half(p);
      return read_nibbles(p + 2, quants);
    case OCTAVO_Q4_1:  // d, minimum, nibbles
      block.d = load_half(p);
      block.minimum = load_half(p + 2);
      return read_nibbles(p + 4, quants);
    case OCTAVO_Q5_0:  // d, fifth bits, nibbles
      block.d = load_half(p);
      read_nibbles(p + 6, quants);
      return read_fifth_bits(p + 2, quants);
    case OCTAVO_Q5_1:  // d, minimum, fifth bits, nibbles
      block.d = load_half(p);
      block.minimum = load_half(p + 2);
      read_nibbles(p + 8, quants);
      return read_fifth_bits(p + 4, quants);
    case OCTAVO_Q8_0:  // d, signed bytes
      block.d = load_half(p);
      for (int j = 0; j < 32; ++j) quants[j] = p[2 + j] ^ 0x80;
      return;
    case OCTAVO_Q2_K:  // scale and minimum nibbles [16], pairs [64], d, dmin
      std::memcpy(block.group_scales, p, 16);
      read_pairs(p + 16, quants);
      block.d = load_half(p + 80);
      block.minimum = load_half(p + 82) ^ kSign;
      return;
    case OCTAVO_Q3_K:  // third bits [32], pairs [64], 6-bit scales [12], d
      read_pairs(p + 32, quants);
      read_high_bits<2>(p, quants);
      for (int j = 0; j < 16; ++j) {
        const int low = p[96 + j % 8] >> (j / 8 * 4) & 15, high = p[104 + j % 4] >> (j / 4 * 2) & 3;
        block.group_scales[j] = static_cast<uint8_t>(low | high << 4);
      }
      block.d = load_half(p + 108);
      return;
    case OCTAVO_Q4_K:  // d, dmin, scales [12], nibbles [128]
      block.d = load_half(p);
      block.minimum = load_half(p + 2) ^ kSign;
      read_six_bit_scales(p + 4, block);
      return read_wide_nibbles(p + 16, quants);
    case OCTAVO_Q5_K:  // d, dmin, scales [12], fifth bits [32], nibbles [128]
      block.d = load_half(p);
      block.minimum = load_half(p + 2) ^ kSign;
      read_six_bit_scales(p + 4, block);
      read_wide_nibbles(p + 48, quants);
      return read_high_bits<4>(p + 16, quants);
    case OCTAVO_Q6_K:  // low nibbles [128], high pairs [64], signed scales [16], d
      read_pairs(p + 128, quants);
      for (int group = 0; group < 4; ++group) {
        for (int l = 0; l < 64; ++l) {
          uint8_t& quant = quants[64 * group + l];
          quant = static_cast<uint8_t>((p[group / 2 * 64 + l] >> (group % 2 * 4) & 15) | quant << 4);
        }
      }
      std::memcpy(block.group_scales, p + 192, 16);
      block.d = load_half(p + 208);
      return;
    case OCTAVO_IQ4_XS:  // d, high scale bits (u16), low scale nibbles [4], nibbles [128]
      block.d = load_half(p);
      for (int j = 0; j < 8; ++j) {
        const int low = p[4 + j / 2] >> (j % 2 * 4) & 15, high = load_half(p + 2) >> (2 * j) & 3;
        block.group_scales[j] = static_cast<uint8_t>((low | high << 4) - 32);
        read_nibbles(p + 8 + 16 * j, quants + 32 * j);
      }
      return;
    case OCTAVO_F32:
    case OCTAVO_F16:
    case OCTAVO_BF16:
      return;
  }
}

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
