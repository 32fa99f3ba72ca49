// Elementwise conversions and moves between rows and pages on the GPU.
#pragma once

#include <cstdint>

#include "arch/gpu.h"
#include "kv/granule_address.h"

namespace octavo {

// stored[i] = round(x[i] / scale); x[i] = stored[i] * scale. All pointers are the device's.
void quantize_gpu(int kv_dtype, const float* x, int64_t n, float scale, uint8_t* stored, GpuStream stream);
void dequantize_gpu(int kv_dtype, const uint8_t* stored, int64_t n, float scale, float* x, GpuStream stream);

// K's or V's part of a row and of a granule.
struct MovePart {
  int32_t codes_bytes;  // of a row; codes alone: a multiple of 8
  int32_t row_bytes;    // the same up to a chunk's end
  int32_t num_scales;   // that follow the codes
  int32_t scale_bytes;  // of one: 2 or 4
  int32_t codes_at;     // in a granule
  int32_t scales_at;
};

struct MoveParams {
  KvGeometry kv;
  uint8_t* pages;
  uint8_t* k;  // [num_tokens][num_kv_heads] rows of codes and their scales
  uint8_t* v;
  const int32_t* slot_mapping;  // slots outside the pages are skipped
  int64_t num_slots;
  int32_t num_tokens;
  MovePart key;
  MovePart value;
};

// Rows to pages, and pages to rows, bit for bit. Packing stores 0 past a row's end.
void pack_gpu(const MoveParams& params, GpuStream stream);
void unpack_gpu(const MoveParams& params, GpuStream stream);

}  // namespace octavo
