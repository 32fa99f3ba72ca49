#include "kv/pages.h"

#include <algorithm>
#include <cstring>

#include "kv/granule.h"
#include "kv/quantize.h"
#include "kv/rotation.h"

namespace octavo {
namespace {

constexpr int32_t kMaxHeadDim = 256;
constexpr int64_t kTokensPerTask = 16;

// Calls copy(chunk in the row, chunk in the part, bytes of the row in that chunk) for each chunk of a row.
template <class Copy>
void for_each_chunk(const GranulePart& part, int64_t token, int64_t used_bytes, Copy&& copy) {
  for (int64_t chunk = 0; chunk * kChunkBytes < used_bytes; ++chunk) {
    copy(chunk * kChunkBytes, part.chunk_offset(token, chunk),
         std::min<int64_t>(kChunkBytes, used_bytes - chunk * kChunkBytes));
  }
}

// A piece of one token's K or V, as offsets in bytes.
struct StoredPiece {
  int64_t in_rows;  // of k or v as kv_pack has it
  int64_t in_pages;
  size_t bytes;
  size_t pad;  // bytes that follow in the pages and are 0
};

// Calls move(StoredPiece) for every piece of K, or V, of the tokens that have a slot.
template <class Move>
void for_each_piece(const octavo_kv_shape& shape, bool is_value, const int32_t* slot_mapping, int32_t num_tokens,
                    Move&& move) {
  const GranuleLayout layout(shape);
  const KvFormat format = kv_format(shape.kv_dtype);
  const GranulePart& part = is_value ? layout.value : layout.key;
  const KvRowFormat& row_format = is_value ? format.value : format.key;
  const int64_t codes_bytes = row_format.codes_bytes(shape.head_dim);
  const int64_t packed_bytes = row_format.packed_bytes(shape.head_dim);
  for (int64_t i = 0; i < num_tokens; ++i) {
    const int32_t slot = slot_mapping[i];
    if (slot < 0) continue;
    const int64_t token = slot % kGranuleTokens;
    for (int32_t head = 0; head < shape.num_kv_heads; ++head) {
      const int64_t granule = layout.granule_offset(slot / shape.page_size, head, slot % shape.page_size);
      const int64_t row = (i * shape.num_kv_heads + head) * packed_bytes;
      for_each_chunk(part, token, codes_bytes, [&](int64_t in_row, int64_t in_part, int64_t bytes) {
        move(StoredPiece{row + in_row, granule + part.at + in_part, static_cast<size_t>(bytes),
                         static_cast<size_t>(kChunkBytes - bytes)});
      });
      const int64_t scale_bytes = row_format.scale_bytes();
      for (int64_t scale = 0; scale < row_format.num_scales(shape.head_dim); ++scale) {
        move(StoredPiece{row + codes_bytes + scale * scale_bytes,
                         granule + part.scales_at + (scale * kGranuleTokens + token) * scale_bytes,
                         static_cast<size_t>(scale_bytes), 0});
      }
    }
  }
}

void store_scale(const KvRowFormat& format, float scale, uint8_t* to) {
  if (format.scales == KvScales::kRow)
    std::memcpy(to, &scale, sizeof scale);
  else
    quantize(OCTAVO_KV_FLOAT16, &scale, 1, 1.0f, to);
}

float scale_of(const octavo_kv_shape& shape, const KvPlace& place, const KvConstants& constants) {
  if (constants.scales == nullptr) return 1.0f;
  return constants.scales[(place.is_value ? shape.num_kv_heads : 0) + place.kv_head];
}

}  // namespace

void kv_append(const octavo_kv_shape& shape, uint8_t* pages, const float* k, int64_t k_stride, const float* v,
               int64_t v_stride, const int32_t* slot_mapping, int32_t num_tokens, const KvConstants& constants,
               ThreadPool& threads) {
  const GranuleLayout layout(shape);
  const KvFormat format = kv_format(shape.kv_dtype);
  const auto append_row = [&](const KvRowFormat& row_format, const GranulePart& part, const float* row,
                              const float* mean, int32_t token, float scale, uint8_t* granule) {
    uint8_t stored[kMaxHeadDim * sizeof(float)] = {};  // bytes past head_dim, up to a chunk's end, are stored as 0
    float rotated[kMaxHeadDim];
    if (format.is_rotated) {
      for (int32_t i = 0; i < shape.head_dim; ++i) rotated[i] = mean == nullptr ? row[i] : row[i] - mean[i];
      rotate_head(rotated, shape.head_dim);
      row = rotated;
    }
    const int32_t num_scales = row_format.num_scales(shape.head_dim);
    const int32_t dims = shape.head_dim / std::max(num_scales, 1);  // that share a scale
    for (int32_t i = 0; i * dims < shape.head_dim; ++i) {
      if (num_scales > 0) {
        scale = own_scale(row_format.code, row + i * dims, dims);
        const int64_t index = i * kGranuleTokens + token;
        store_scale(row_format, scale, granule + part.scales_at + index * row_format.scale_bytes());
      }
      quantize(row_format.code, row + i * dims, dims, scale, stored + row_format.codes_bytes(i * dims));
    }
    for_each_chunk(part, token, part.row_bytes, [&](int64_t in_row, int64_t in_part, int64_t) {
      std::memcpy(granule + part.at + in_part, stored + in_row, kChunkBytes);
    });
  };
  const auto append_token = [&](int64_t i) {
    const int32_t slot = slot_mapping[i];
    if (slot < 0) return;
    const int32_t offset = slot % shape.page_size;
    for (int32_t head = 0; head < shape.num_kv_heads; ++head) {
      uint8_t* granule = pages + layout.granule_offset(slot / shape.page_size, head, offset);
      const int64_t first = int64_t{head} * shape.head_dim;
      const float k_scale = scale_of(shape, {slot, head, false}, constants);
      const float v_scale = scale_of(shape, {slot, head, true}, constants);
      const float* k_mean = constants.k_mean == nullptr ? nullptr : constants.k_mean + first;
      const int32_t token = offset % kGranuleTokens;
      append_row(format.key, layout.key, k + i * k_stride + first, k_mean, token, k_scale, granule);
      append_row(format.value, layout.value, v + i * v_stride + first, nullptr, token, v_scale, granule);
    }
  };
  threads.run((num_tokens + kTokensPerTask - 1) / kTokensPerTask, [&](int64_t task, int) {
    const int64_t end = std::min<int64_t>(num_tokens, (task + 1) * kTokensPerTask);
    for (int64_t i = task * kTokensPerTask; i < end; ++i) append_token(i);
  });
}

void kv_pack(const octavo_kv_shape& shape, uint8_t* pages, const uint8_t* k, const uint8_t* v,
             const int32_t* slot_mapping, int32_t num_tokens) {
  for (const bool is_value : {false, true}) {
    const uint8_t* rows = is_value ? v : k;
    for_each_piece(shape, is_value, slot_mapping, num_tokens, [&](const StoredPiece& piece) {
      std::memcpy(pages + piece.in_pages, rows + piece.in_rows, piece.bytes);
      std::memset(pages + piece.in_pages + piece.bytes, 0, piece.pad);
    });
  }
}

void kv_unpack(const octavo_kv_shape& shape, const uint8_t* pages, uint8_t* k, uint8_t* v,
               const int32_t* slot_mapping, int32_t num_tokens) {
  for (const bool is_value : {false, true}) {
    uint8_t* rows = is_value ? v : k;
    for_each_piece(shape, is_value, slot_mapping, num_tokens, [&](const StoredPiece& piece) {
      std::memcpy(rows + piece.in_rows, pages + piece.in_pages, piece.bytes);
    });
  }
}

void kv_read(const octavo_kv_shape& shape, const uint8_t* pages, const KvPlace& place, const KvConstants& constants,
             float* x) {
  const GranuleLayout layout(shape);
  const KvFormat format = kv_format(shape.kv_dtype);
  const KvRowFormat& row_format = place.is_value ? format.value : format.key;
  const GranulePart& part = place.is_value ? layout.value : layout.key;
  const uint8_t* granule =
      pages + layout.granule_offset(place.slot / shape.page_size, place.kv_head, place.slot % shape.page_size);
  const int64_t token = place.slot % kGranuleTokens;
  uint8_t codes[kMaxHeadDim * sizeof(float)];
  for_each_chunk(part, token, part.row_bytes, [&](int64_t in_row, int64_t in_part, int64_t) {
    std::memcpy(codes + in_row, granule + part.at + in_part, kChunkBytes);
  });
  const int32_t num_scales = row_format.num_scales(shape.head_dim);
  const int32_t dims = shape.head_dim / std::max(num_scales, 1);  // that share a scale
  float scale = scale_of(shape, place, constants);
  for (int32_t i = 0; i * dims < shape.head_dim; ++i) {
    if (num_scales > 0) {
      const uint8_t* stored = granule + part.scales_at + (i * kGranuleTokens + token) * row_format.scale_bytes();
      const int32_t code = row_format.scales == KvScales::kRow ? OCTAVO_KV_FLOAT32 : OCTAVO_KV_FLOAT16;
      dequantize(code, stored, 1, 1.0f, &scale);
    }
    dequantize(row_format.code, codes + row_format.codes_bytes(i * dims), dims, scale, x + i * dims);
  }
  if (format.is_rotated) rotate_head(x, shape.head_dim);
  if (place.is_value || constants.k_mean == nullptr) return;
  for (int32_t i = 0; i < shape.head_dim; ++i) x[i] += constants.k_mean[place.kv_head * shape.head_dim + i];
}

}  // namespace octavo
