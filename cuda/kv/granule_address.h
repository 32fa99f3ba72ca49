// Addresses in the granule layout (octavo.h, octavo_kv_shape), for host and device code of GPU builds.
#pragma once

#include <cstdint>

#include "arch/host_device.h"

namespace octavo {

constexpr int kGranuleTokens = 16;
constexpr int kChunkBytes = 16;   // what the swizzle moves, and what one ldmatrix row reads
constexpr int kBlockBytes = 128;  // width of a full column block

OCTAVO_HOST_DEVICE constexpr int round_up_to_chunk(int bytes) {
  return (bytes + kChunkBytes - 1) / kChunkBytes * kChunkBytes;
}

OCTAVO_HOST_DEVICE constexpr int row_bytes_of(int head_dim, int element_bytes) {
  return round_up_to_chunk(head_dim * element_bytes);
}

// Bytes of the codes of K or V of one granule.
OCTAVO_HOST_DEVICE constexpr int half_granule_bytes(int row_bytes) { return kGranuleTokens * row_bytes; }

// Where the 16-byte chunk of a token's row lies inside the K (or V) codes of its granule:
//
//   row:       | block 0: chunks 0..7 | block 1: chunks 8..15 | ... | what is left |
//   in memory: | 16 tokens x 128 B    | 16 tokens x 128 B     | ... | 16 tokens x width |, chunks swizzled by token
OCTAVO_HOST_DEVICE constexpr int chunk_offset(int row_bytes, int token, int chunk) {
  const int block = chunk / (kBlockBytes / kChunkBytes);
  const int in_block = chunk % (kBlockBytes / kChunkBytes);
  const int left = row_bytes - block * kBlockBytes;
  const int width = left < kBlockBytes ? left : kBlockBytes;
  const int swizzle = width == 128 ? (token & 7) : width == 64 ? ((token >> 1) & 3) : 0;
  return block * kGranuleTokens * kBlockBytes + token * width + ((in_block ^ swizzle) * kChunkBytes);
}

// Where byte number byte of a token's row lies inside the K (or V) codes of its granule.
OCTAVO_HOST_DEVICE constexpr int byte_offset(int row_bytes, int token, int byte) {
  return chunk_offset(row_bytes, token, byte / kChunkBytes) + byte % kChunkBytes;
}

// Sizes of one layer's pages.
//
//  granule:  | K codes | V codes | K scales | V scales |     scales: of formats that have their own
struct KvGeometry {
  int row_bytes;        // of a token's codes of K
  int value_row_bytes;  // of V
  int value_at;         // of V's codes in a granule
  int key_scales_at;
  int value_scales_at;
  int granule_bytes;
  int page_shift;  // log2(page_size)
  int num_kv_heads;
  int64_t page_bytes;

  // Start of the granule that holds a slot of a page, for one kv head.
  OCTAVO_HOST_DEVICE int64_t granule_offset(int32_t page, int head, int token_in_page) const {
    const int granules = 1 << (page_shift - 4);
    return page * page_bytes + (static_cast<int64_t>(head) * granules + (token_in_page >> 4)) * granule_bytes;
  }
};

}  // namespace octavo
