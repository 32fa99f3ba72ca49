// One product by itself, for octavo_matmul: memory is taken and given back in the stream.
#pragma once

#include "gemm/device_matmul.h"

namespace octavo {

// y[m][rows] = x[m][cols] W^T, both f32 on the device; x is rounded to W's type, bf16 for E4M3. Throws Error for types and
// shapes that the streaming products do not take.
void single_matmul(const DeviceMatrix& w, const float* x, int32_t m, float* y, GpuStream stream);

}  // namespace octavo
