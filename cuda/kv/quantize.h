// Conversions between f32 and the stored KV formats: one rounding, to nearest even, saturating.
#pragma once

#include <cstdint>

#include "kv/shape.h"

namespace octavo {

// stored[i] = round(x[i] / scale), a true f32 division. NaN stays NaN. Beyond the largest finite value, infinity
// included, every format but float32 saturates. code: OCTAVO_KV_FLOAT32 .. FP8_E5M2, or INT8 and INT4, which have no NaN
// and take it for -127 and -7; n of INT4 is even.
void quantize(int32_t code, const float* x, int64_t n, float scale, uint8_t* stored);

// The scale of n values that share one in a format with scales of its own (octavo.h, octavo_kv_dtype); of INT4 one that
// f16 holds.
float own_scale(int32_t code, const float* x, int64_t n);

// x[i] = stored[i] * scale; code as quantize() takes it.
void dequantize(int32_t code, const uint8_t* stored, int64_t n, float scale, float* x);

// The 256 values of OCTAVO_KV_FP8_E4M3 or OCTAVO_KV_FP8_E5M2, by code.
const float* fp8_table(int32_t kv_dtype);

}  // namespace octavo
