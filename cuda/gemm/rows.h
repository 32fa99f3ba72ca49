// What the products of many tokens leave to be done row by row.
#pragma once

#include "gemm/device_matmul.h"

namespace octavo {

// y[m][rows] += bias (kStore, kAdd).
void add_bias(void* y, int32_t y_dtype, int64_t y_stride, const float* bias, int32_t rows, int32_t m, GpuStream stream,
              bool overlap);

// y[m][half] = act(product[m][0 .. half) + bias) * (product[m][half .. 2 half) + bias); product rows are contiguous. half
// is a multiple of 8. bias: f32[2 half] or nullptr. With y_scales, y is that rounded to y_dtype and then to E4M3 with a
// scale a row; half is then at most kMaxGateE4m3.
struct GateRows {
  const void* product;
  int32_t product_dtype;  // OCTAVO_BF16 or OCTAVO_F16
  void* y;
  int32_t y_dtype;
  float* y_scales;  // f32[m] or nullptr
  int64_t y_stride;
  const float* bias;
  int32_t half;
  int32_t m;
  MatmulEpilogue epilogue;
};
constexpr int32_t kMaxGateE4m3 = 24512;  // a row waits in 48 KB of shared memory
void gate_rows(const GateRows& rows, GpuStream stream, bool overlap);

// x [num_rows][columns] of compute_dtype to E4M3 with a scale a row, its largest |value| / 448: values = x / scale.
struct QuantizeRowsParams {
  const void* x;
  uint8_t* values;  // [num_rows][columns]
  float* scales;    // [num_rows]
  int32_t num_rows;
  int32_t columns;  // a multiple of 16
  int32_t compute_dtype;
};
void quantize_rows(const QuantizeRowsParams& params, GpuStream stream, bool overlap);

// Bits that are numbers below 2 in size in every type of weights: zeros would be multiplied faster than weights are.
// bytes: a multiple of 4.
void fill_noise(void* data, size_t bytes, GpuStream stream);

// f32 to OCTAVO_BF16 or OCTAVO_F16, rounded to nearest even.
void narrow_rows(const float* x, void* y, int32_t dtype, int64_t count, GpuStream stream);

}  // namespace octavo
