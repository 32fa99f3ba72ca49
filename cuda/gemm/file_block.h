// Blocks of GGML's formats taken apart, for host and device: what the CPU build packs for its kernels and what GPU builds
// dequantise at load.
#pragma once

#include <cstdint>
#include <cstring>

#include "arch/host_device.h"
#include "gemm/elements.h"
#include "gemm/format.h"

namespace octavo {

// A block of a file taken apart. Scales as format.h's Scales says; halves are f16 bits.
struct FileBlock {
  uint8_t quants[256];
  uint16_t d = 0;
  uint16_t minimum = 0;       // minimum or -dmin
  uint8_t group_scales[16];   // a group's scale: signed (kInt8), 6 bits (kSplit6), 6 bits (kByteMinimum), nibbles
  uint8_t group_minimums[8];  // kByteMinimum
};

// Nibbles of 32 columns: byte j holds column j and, above, column j + 16.
OCTAVO_HOST_DEVICE inline void read_nibbles(const uint8_t* p, uint8_t* quants) {
  for (int j = 0; j < 16; ++j) {
    quants[j] = p[j] & 15;
    quants[j + 16] = p[j] >> 4;
  }
}

// Bit j of 4 bytes is bit 4 of column j.
OCTAVO_HOST_DEVICE inline void read_fifth_bits(const uint8_t* p, uint8_t* quants) {
  for (int byte = 0; byte < 4; ++byte) {
    for (int bit = 0; bit < 8; ++bit) quants[8 * byte + bit] |= static_cast<uint8_t>((p[byte] >> bit & 1) << 4);
  }
}

// Q2_K, Q3_K and Q6_K: byte l of each half's 32 bytes holds columns l, l + 32, l + 64, l + 96, two bits each.
OCTAVO_HOST_DEVICE inline void read_pairs(const uint8_t* p, uint8_t* quants) {
  for (int group = 0; group < 8; ++group) {
    for (int l = 0; l < 32; ++l) quants[32 * group + l] = p[group / 4 * 32 + l] >> (group % 4 * 2) & 3;
  }
}

// Q4_K and Q5_K: byte l of each 32 bytes holds columns l and l + 32 of 64.
OCTAVO_HOST_DEVICE inline void read_wide_nibbles(const uint8_t* p, uint8_t* quants) {
  for (int group = 0; group < 8; ++group) {
    for (int l = 0; l < 32; ++l) quants[32 * group + l] = p[group / 2 * 32 + l] >> (group % 2 * 4) & 15;
  }
}

// Q3_K and Q5_K: bit g of byte l is bit kBit of column 32 g + l.
template <int kBit>
OCTAVO_HOST_DEVICE inline void read_high_bits(const uint8_t* p, uint8_t* quants) {
  for (int group = 0; group < 8; ++group) {
    for (int l = 0; l < 32; ++l) quants[32 * group + l] |= static_cast<uint8_t>((p[l] >> group & 1) << kBit);
  }
}

// Q4_K and Q5_K: 8 scales and 8 minimums of 6 bits in 12 bytes; the last four have their high bits in the first eight
// bytes.
OCTAVO_HOST_DEVICE inline void read_six_bit_scales(const uint8_t* p, FileBlock& block) {
  for (int j = 0; j < 4; ++j) {
    block.group_scales[j] = p[j] & 63;
    block.group_minimums[j] = p[j + 4] & 63;
    block.group_scales[j + 4] = static_cast<uint8_t>((p[j + 8] & 15) | p[j] >> 6 << 4);
    block.group_minimums[j + 4] = static_cast<uint8_t>(p[j + 8] >> 4 | p[j + 4] >> 6 << 4);
  }
}

OCTAVO_HOST_DEVICE inline void read_block(octavo_dtype dtype, const uint8_t* p, FileBlock& block) {
  uint8_t* quants = block.quants;
  constexpr uint16_t kSign = 0x8000;
  switch (dtype) {
    case OCTAVO_Q4_0:  // d, nibbles
    case OCTAVO_IQ4_NL:
      block.d = load_u16(p);
      return read_nibbles(p + 2, quants);
    case OCTAVO_Q4_1:  // d, minimum, nibbles
      block.d = load_u16(p);
      block.minimum = load_u16(p + 2);
      return read_nibbles(p + 4, quants);
    case OCTAVO_Q5_0:  // d, fifth bits, nibbles
      block.d = load_u16(p);
      read_nibbles(p + 6, quants);
      return read_fifth_bits(p + 2, quants);
    case OCTAVO_Q5_1:  // d, minimum, fifth bits, nibbles
      block.d = load_u16(p);
      block.minimum = load_u16(p + 2);
      read_nibbles(p + 8, quants);
      return read_fifth_bits(p + 4, quants);
    case OCTAVO_Q8_0:  // d, signed bytes
      block.d = load_u16(p);
      for (int j = 0; j < 32; ++j) quants[j] = p[2 + j] ^ 0x80;
      return;
    case OCTAVO_Q2_K:  // scale and minimum nibbles [16], pairs [64], d, dmin
      memcpy(block.group_scales, p, 16);
      read_pairs(p + 16, quants);
      block.d = load_u16(p + 80);
      block.minimum = load_u16(p + 82) ^ kSign;
      return;
    case OCTAVO_Q3_K:  // third bits [32], pairs [64], 6-bit scales [12], d
      read_pairs(p + 32, quants);
      read_high_bits<2>(p, quants);
      for (int j = 0; j < 16; ++j) {
        const int low = p[96 + j % 8] >> (j / 8 * 4) & 15, high = p[104 + j % 4] >> (j / 4 * 2) & 3;
        block.group_scales[j] = static_cast<uint8_t>(low | high << 4);
      }
      block.d = load_u16(p + 108);
      return;
    case OCTAVO_Q4_K:  // d, dmin, scales [12], nibbles [128]
      block.d = load_u16(p);
      block.minimum = load_u16(p + 2) ^ kSign;
      read_six_bit_scales(p + 4, block);
      return read_wide_nibbles(p + 16, quants);
    case OCTAVO_Q5_K:  // d, dmin, scales [12], fifth bits [32], nibbles [128]
      block.d = load_u16(p);
      block.minimum = load_u16(p + 2) ^ kSign;
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
      memcpy(block.group_scales, p + 192, 16);
      block.d = load_u16(p + 208);
      return;
    case OCTAVO_IQ4_XS:  // d, high scale bits (u16), low scale nibbles [4], nibbles [128]
      block.d = load_u16(p);
      for (int j = 0; j < 8; ++j) {
        const int low = p[4 + j / 2] >> (j % 2 * 4) & 15, high = load_u16(p + 2) >> (2 * j) & 3;
        block.group_scales[j] = static_cast<uint8_t>((low | high << 4) - 32);
        read_nibbles(p + 8 + 16 * j, quants + 32 * j);
      }
      return;
    case OCTAVO_F32:
    case OCTAVO_F16:
    case OCTAVO_BF16:
    case OCTAVO_F8_E4M3:
      return;
  }
}

// Scale and minimum of the columns that share them; a weight is scale * (quant - offset) + minimum.
struct BlockScale {
  float scale;
  float minimum;
};

// Of columns 32 b + 32 / groups * g .. of a block of this format, computed as the CPU's kernels do.
OCTAVO_HOST_DEVICE inline BlockScale block_scale(const Format& format, const FileBlock& block, int b, int g) {
  const float d = f16_to_float(block.d), minimum = f16_to_float(block.minimum);
  const uint8_t group_scale = block.group_scales[b * format.groups + g];
  switch (format.scales) {
    case Scales::kHalf: return {d, 0};
    case Scales::kHalfMinimum: return {d, minimum};
    case Scales::kInt8: return {d * static_cast<float>(static_cast<int8_t>(group_scale)), 0};
    case Scales::kSplit6: return {d * static_cast<float>(group_scale - 32), 0};
    case Scales::kByteMinimum:
      return {d * static_cast<float>(group_scale), minimum * static_cast<float>(block.group_minimums[b])};
    case Scales::kNibbleMinimum:
      return {d * static_cast<float>(group_scale & 15), minimum * static_cast<float>(group_scale >> 4)};
    case Scales::kNone: break;
  }
  return {0, 0};
}

// a + b, never fused with the product that a is: device code gives the host's bits.
OCTAVO_HOST_DEVICE inline float add_unfused(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}

// values[format.block_cols] = a block of a block format.
OCTAVO_HOST_DEVICE inline void dequantize_block(const Format& format, const uint8_t* source, float* values) {
  FileBlock block;
  read_block(format.dtype, source, block);
  for (int b = 0; b < format.blocks(); ++b) {
    for (int g = 0; g < format.groups; ++g) {
      const BlockScale scale = block_scale(format, block, b, g);
      const int num_cols = kBlockCols / format.groups;
      for (int i = 0; i < num_cols; ++i) {
        const int col = kBlockCols * b + num_cols * g + i;
        const int quant = format.lookup ? iq4_value(block.quants[col]) : block.quants[col];
        const float product = scale.scale * static_cast<float>(quant - format.offset);
        values[col] = format.minimums() ? add_unfused(product, scale.minimum) : product;
      }
    }
  }
}

}  // namespace octavo
