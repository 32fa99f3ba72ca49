#include "kv/pages.h"

#include <algorithm>
#include <cstring>

#include "kv/granule.h"
#include "kv/quantize.h"

namespace octavo {
namespace {

constexpr int32_t kMaxHeadDim = 256;
constexpr int64_t kTokensPerTask = 16;

// Calls copy(chunk in the row, chunk in the pages, bytes of the row in that chunk) for each chunk of a row.
template <class Copy>
void for_each_chunk(const GranuleLayout& layout, int64_t token, int64_t used_bytes, Copy&& copy) {
  for (int64_t chunk = 0; chunk * kChunkBytes < used_bytes; ++chunk) {
    copy(chunk * kChunkBytes, layout.chunk_offset(token, chunk),
         std::min<int64_t>(kChunkBytes, used_bytes - chunk * kChunkBytes));
  }
}

// Where a chunk of one token and kv head lies, as offsets in bytes.
struct StoredChunk {
  int64_t in_rows;     // of k and v as rows [num_tokens][num_kv_heads][head_dim]
  int64_t k_in_pages;
  int64_t v_in_pages;
  size_t bytes;  // in the row; in the pages it always has kChunkBytes
};

// Calls move(StoredChunk) for every chunk of the tokens that have a slot.
template <class Move>
void for_each_stored_chunk(const octavo_kv_shape& shape, const int32_t* slot_mapping, int32_t num_tokens, Move&& move) {
  const GranuleLayout layout(shape);
  const int64_t used_bytes = int64_t{shape.head_dim} * kv_element_bytes(shape.kv_dtype);
  for (int64_t i = 0; i < num_tokens; ++i) {
    const int32_t slot = slot_mapping[i];
    if (slot < 0) continue;
    for (int32_t head = 0; head < shape.num_kv_heads; ++head) {
      const int64_t granule = layout.granule_offset(slot / shape.page_size, head, slot % shape.page_size);
      const int64_t row = (i * shape.num_kv_heads + head) * used_bytes;
      for_each_chunk(layout, slot % kGranuleTokens, used_bytes, [&](int64_t in_row, int64_t in_part, int64_t bytes) {
        const int64_t k_in_pages = granule + in_part;
        move(StoredChunk{row + in_row, k_in_pages, k_in_pages + layout.part_bytes, static_cast<size_t>(bytes)});
      });
    }
  }
}

}  // namespace

int64_t kv_layer_page_bytes(const octavo_kv_shape& shape) { return GranuleLayout(shape).page_bytes; }

void kv_append(const octavo_kv_shape& shape, uint8_t* pages, const float* k, int64_t k_stride, const float* v,
               int64_t v_stride, const int32_t* slot_mapping, int32_t num_tokens, const float* scales,
               ThreadPool& threads) {
  const GranuleLayout layout(shape);
  const auto append_row = [&](const float* row, int32_t token, float scale, uint8_t* part) {
    uint8_t stored[kMaxHeadDim * sizeof(float)] = {};  // bytes past head_dim, up to a chunk's end, are stored as 0
    quantize(shape.kv_dtype, row, shape.head_dim, scale, stored);
    for_each_chunk(layout, token, layout.row_bytes, [&](int64_t in_row, int64_t in_part, int64_t) {
      std::memcpy(part + in_part, stored + in_row, kChunkBytes);
    });
  };
  const auto append_token = [&](int64_t i) {
    const int32_t slot = slot_mapping[i];
    if (slot < 0) return;
    const int32_t offset = slot % shape.page_size;
    for (int32_t head = 0; head < shape.num_kv_heads; ++head) {
      uint8_t* granule = pages + layout.granule_offset(slot / shape.page_size, head, offset);
      const int64_t first = int64_t{head} * shape.head_dim;
      const float k_scale = scales == nullptr ? 1.0f : scales[head];
      const float v_scale = scales == nullptr ? 1.0f : scales[shape.num_kv_heads + head];
      append_row(k + i * k_stride + first, offset % kGranuleTokens, k_scale, granule);
      append_row(v + i * v_stride + first, offset % kGranuleTokens, v_scale, granule + layout.part_bytes);
    }
  };
  threads.run((num_tokens + kTokensPerTask - 1) / kTokensPerTask, [&](int64_t task, int) {
    const int64_t end = std::min<int64_t>(num_tokens, (task + 1) * kTokensPerTask);
    for (int64_t i = task * kTokensPerTask; i < end; ++i) append_token(i);
  });
}

void kv_pack(const octavo_kv_shape& shape, uint8_t* pages, const uint8_t* k, const uint8_t* v,
             const int32_t* slot_mapping, int32_t num_tokens) {
  for_each_stored_chunk(shape, slot_mapping, num_tokens, [&](const StoredChunk& chunk) {
    const auto copy = [&](uint8_t* to, const uint8_t* from) {
      std::memcpy(to, from, chunk.bytes);
      std::memset(to + chunk.bytes, 0, kChunkBytes - chunk.bytes);
    };
    copy(pages + chunk.k_in_pages, k + chunk.in_rows);
    copy(pages + chunk.v_in_pages, v + chunk.in_rows);
  });
}

void kv_unpack(const octavo_kv_shape& shape, const uint8_t* pages, uint8_t* k, uint8_t* v,
               const int32_t* slot_mapping, int32_t num_tokens) {
  for_each_stored_chunk(shape, slot_mapping, num_tokens, [&](const StoredChunk& chunk) {
    std::memcpy(k + chunk.in_rows, pages + chunk.k_in_pages, chunk.bytes);
    std::memcpy(v + chunk.in_rows, pages + chunk.v_in_pages, chunk.bytes);
  });
}

}  // namespace octavo
