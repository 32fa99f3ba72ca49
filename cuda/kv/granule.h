// Where a 16-byte chunk of K or V lies inside a granule (octavo.h, octavo_kv_shape).
#pragma once

#include <cstdint>

#include "arch/inline.h"
#include "kv/format.h"
#include "octavo.h"

namespace octavo {

constexpr int32_t kGranuleTokens = 16;
constexpr int32_t kChunkBytes = 16;
constexpr int32_t kBlockBytes = 128;  // of a full column block's row

// K's or V's part of a granule: codes at offset at, and where the format has them scales at scales_at.
//
//   codes:                   | column block 0 | column block 1 | .. |
//   column block:            | token 0: width bytes | token 1 | .. | token 15 |
//   row of 128 or 64 bytes:  16-byte chunks, chunk c of token t at c ^ swizzle(t)
struct GranulePart {
  int64_t at;
  int64_t row_bytes;   // of one token's codes, a multiple of 16
  int64_t scales_at;   // of the tokens' scales: [scale of the row][16 tokens]

  OCTAVO_INLINE int64_t bytes() const { return kGranuleTokens * row_bytes; }

  // Offset of chunk (of 0 .. row_bytes/16 - 1) of token (0 .. 15) from the part's first code.
  OCTAVO_INLINE int64_t chunk_offset(int64_t token, int64_t chunk) const {
    const int64_t block = chunk * kChunkBytes / kBlockBytes;
    const int64_t rest = row_bytes - block * kBlockBytes;
    const int64_t width = rest < kBlockBytes ? rest : int64_t{kBlockBytes};
    const int64_t swizzle = width == 128 ? token & 7 : width == 64 ? (token >> 1) & 3 : 0;
    return block * kBlockBytes * kGranuleTokens + token * width +
           ((chunk - block * (kBlockBytes / kChunkBytes)) ^ swizzle) * kChunkBytes;
  }
};

//  granule of one kv head:  | K codes | V codes | K scales | V scales |
struct GranuleLayout {
  GranulePart key;
  GranulePart value;
  int64_t granule_bytes;
  int64_t granules;    // of one page and kv head
  int64_t head_bytes;  // of one kv head of a page
  int64_t page_bytes;  // of one layer's page
  int64_t page_stride;

  OCTAVO_INLINE explicit GranuleLayout(const octavo_kv_shape& shape) {
    const KvFormat format = kv_format(shape.kv_dtype);
    key.at = 0;
    key.row_bytes = round_up(format.key.codes_bytes(shape.head_dim));
    value.at = key.bytes();
    value.row_bytes = round_up(format.value.codes_bytes(shape.head_dim));
    key.scales_at = value.at + value.bytes();
    value.scales_at = key.scales_at + kGranuleTokens * format.key.scales_bytes(shape.head_dim);
    granule_bytes = value.scales_at + kGranuleTokens * format.value.scales_bytes(shape.head_dim);
    granules = shape.page_size / kGranuleTokens;
    head_bytes = granules * granule_bytes;
    page_bytes = shape.num_kv_heads * head_bytes;
    page_stride = shape.page_stride == 0 ? page_bytes : shape.page_stride;
  }

  // Offset of the granule that holds the token at offset_in_page.
  OCTAVO_INLINE int64_t granule_offset(int64_t page, int64_t kv_head, int64_t offset_in_page) const {
    return page * page_stride + kv_head * head_bytes + offset_in_page / kGranuleTokens * granule_bytes;
  }

 private:
  OCTAVO_INLINE static int64_t round_up(int64_t bytes) { return (bytes + kChunkBytes - 1) / kChunkBytes * kChunkBytes; }
};

}  // namespace octavo
