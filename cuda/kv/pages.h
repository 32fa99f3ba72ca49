// The granule layout of KV pages (octavo.h, octavo_kv_shape): sizes, addresses, append.
#pragma once

#include <cstdint>

#include "arch/thread_pool.h"
#include "kv/shape.h"
#include "octavo.h"

namespace octavo {

// What K and V are stored with.
struct KvConstants {
  const float* scales;  // [2][num_kv_heads] or nullptr = 1; not used by formats with scales of their own
  const float* k_mean;  // [num_kv_heads][head_dim], taken off K, or nullptr = 0; rotated formats only
};

// Writes K and V (f32, [num_tokens][num_kv_heads][head_dim]; rows k_stride and v_stride floats apart) of tokens into
// their slots; slot -1 skips a token. Slots must be valid and distinct.
void kv_append(const octavo_kv_shape& shape, uint8_t* pages, const float* k, int64_t k_stride, const float* v,
               int64_t v_stride, const int32_t* slot_mapping, int32_t num_tokens, const KvConstants& constants,
               ThreadPool& threads);

// Copy what is stored, bit for bit, from rows into pages and back; k, v: [num_tokens][num_kv_heads] rows as
// octavo_kv_pack has them. Slot -1 skips a token: its rows are neither read nor written.
void kv_pack(const octavo_kv_shape& shape, uint8_t* pages, const uint8_t* k, const uint8_t* v,
             const int32_t* slot_mapping, int32_t num_tokens);
void kv_unpack(const octavo_kv_shape& shape, const uint8_t* pages, uint8_t* k, uint8_t* v, const int32_t* slot_mapping,
               int32_t num_tokens);

// One token's K or V of one head.
struct KvPlace {
  int32_t slot;
  int32_t kv_head;
  bool is_value;
};

// Reads back what is stored, turned back where it was rotated and with the mean added again; x: [head_dim].
void kv_read(const octavo_kv_shape& shape, const uint8_t* pages, const KvPlace& place, const KvConstants& constants,
             float* x);

}  // namespace octavo
