// Where a 16-byte chunk of K or V lies inside a granule (octavo.h, octavo_kv_shape).
#pragma once

#include <cstdint>

#include "arch/inline.h"
#include "kv/quantize.h"
#include "octavo.h"

namespace octavo {

constexpr int32_t kGranuleTokens = 16;
constexpr int32_t kChunkBytes = 16;
constexpr int32_t kBlockBytes = 128;  // of a full column block's row

//  granule of one kv head:  | K block 0 | K block 1 | .. | V block 0 | V block 1 | .. |
//  column block:            | token 0: width bytes | token 1 | .. | token 15 |
//  row of 128 or 64 bytes:  16-byte chunks, chunk c of token t at c ^ swizzle(t)
struct GranuleLayout {
  int64_t row_bytes;    // of one token's K or V, a multiple of 16
  int64_t part_bytes;   // of K, or V, of a granule
  int64_t granules;     // of one page and kv head
  int64_t head_bytes;   // of one kv head of a page
  int64_t page_bytes;   // of one layer's page

  OCTAVO_INLINE explicit GranuleLayout(const octavo_kv_shape& shape)
      : row_bytes((int64_t{shape.head_dim} * kv_element_bytes(shape.kv_dtype) + kChunkBytes - 1) / kChunkBytes *
                  kChunkBytes),
        part_bytes(kGranuleTokens * row_bytes),
        granules(shape.page_size / kGranuleTokens),
        head_bytes(granules * 2 * part_bytes),
        page_bytes(shape.num_kv_heads * head_bytes) {}

  // Offset of K's part of the granule that holds the token at offset_in_page; V's follows part_bytes later.
  OCTAVO_INLINE int64_t granule_offset(int64_t page, int64_t kv_head, int64_t offset_in_page) const {
    return page * page_bytes + kv_head * head_bytes + offset_in_page / kGranuleTokens * 2 * part_bytes;
  }

  // Offset of chunk (of 0 .. row_bytes/16 - 1) of token (0 .. 15) inside its part.
  OCTAVO_INLINE int64_t chunk_offset(int64_t token, int64_t chunk) const {
    const int64_t block = chunk * kChunkBytes / kBlockBytes;
    const int64_t rest = row_bytes - block * kBlockBytes;
    const int64_t width = rest < kBlockBytes ? rest : int64_t{kBlockBytes};
    const int64_t swizzle = width == 128 ? token & 7 : width == 64 ? (token >> 1) & 3 : 0;
    return block * kBlockBytes * kGranuleTokens + token * width +
           ((chunk - block * (kBlockBytes / kChunkBytes)) ^ swizzle) * kChunkBytes;
  }
};

}  // namespace octavo
