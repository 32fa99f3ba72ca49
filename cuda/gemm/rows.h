// What the products of many tokens leave to be done row by row.
#pragma once

#include "gemm/device_matmul.h"

namespace octavo {

// y[m][rows] += bias (kStore, kAdd).
void add_bias(void* y, int32_t y_dtype, int64_t y_stride, const float* bias, int32_t rows, int32_t m, GpuStream stream,
              bool overlap);

// y[m][half] = act(product[m][0 .. half) + bias) * (product[m][half .. 2 half) + bias); product rows are contiguous. half
// is a multiple of 8. bias: f32[2 half] or nullptr.
struct GateRows {
  const void* product;
  int32_t product_dtype;  // OCTAVO_BF16 or OCTAVO_F16
  void* y;
  int32_t y_dtype;
  int64_t y_stride;
  const float* bias;
  int32_t half;
  int32_t m;
  MatmulEpilogue epilogue;
};
void gate_rows(const GateRows& rows, GpuStream stream, bool overlap);

// f32 to OCTAVO_BF16 or OCTAVO_F16, rounded to nearest even.
void narrow_rows(const float* x, void* y, int32_t dtype, int64_t count, GpuStream stream);

}  // namespace octavo
