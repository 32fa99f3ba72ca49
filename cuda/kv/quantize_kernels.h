// The conversions of quantize.h, compiled once per instruction set from quantize.inl.
#pragma once

#include <cstdint>

namespace octavo {

// stored[i] = round(x[i] / scale) for n elements; arguments as quantize().
using QuantizeKernel = void (*)(int32_t code, const float* x, int64_t n, float scale, uint8_t* stored);

void quantize_portable(int32_t code, const float* x, int64_t n, float scale, uint8_t* stored);
#if defined(__x86_64__)
void quantize_avx2(int32_t code, const float* x, int64_t n, float scale, uint8_t* stored);
void quantize_avx512(int32_t code, const float* x, int64_t n, float scale, uint8_t* stored);
#endif

}  // namespace octavo
