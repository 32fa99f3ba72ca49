#include "kv/quantize.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "arch/cpu.h"
#include "kv/format.h"
#include "kv/quantize_kernels.h"

namespace octavo {
namespace {

QuantizeKernel choose_quantize() {
#if defined(__x86_64__)
  if (isa() >= Isa::kAvx512) return quantize_avx512;
  if (isa() >= Isa::kAvx2) return quantize_avx2;
#endif
  return quantize_portable;
}

// sign, exponent and mantissa fields of a 16-bit float with 5 exponent bits.
float decode_f16(uint16_t code) {
  const float sign = code & 0x8000 ? -1.0f : 1.0f;
  const int exponent = (code >> 10) & 31;
  const int mantissa = code & 1023;
  if (exponent == 31) return mantissa != 0 ? std::copysign(NAN, sign) : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -24);
  return sign * std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
}

float decode_e4m3(uint8_t code) {
  const float sign = code & 0x80 ? -1.0f : 1.0f;
  if ((code & 0x7f) == 0x7f) return std::copysign(NAN, sign);
  const int exponent = (code >> 3) & 15;
  const int mantissa = code & 7;
  return sign * (exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                               : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10));
}

// E5M2 is the upper byte of a float16.
float decode_e5m2(uint8_t code) { return decode_f16(static_cast<uint16_t>(code << 8)); }

template <class Decode>
std::array<float, 256> make_table(Decode decode) {
  std::array<float, 256> table{};
  for (int code = 0; code < 256; ++code) table[code] = decode(static_cast<uint8_t>(code));
  return table;
}

template <class Code, class Decode>
void dequantize_as(const uint8_t* stored, int64_t n, float scale, float* x, Decode decode) {
  for (int64_t i = 0; i < n; ++i) {
    Code code;
    std::memcpy(&code, stored + i * static_cast<int64_t>(sizeof code), sizeof code);
    x[i] = decode(code) * scale;
  }
}

}  // namespace

const float* fp8_table(int32_t kv_dtype) {
  static const std::array<float, 256> e4m3 = make_table(decode_e4m3);
  static const std::array<float, 256> e5m2 = make_table(decode_e5m2);
  return kv_dtype == OCTAVO_KV_FP8_E4M3 ? e4m3.data() : e5m2.data();
}

void quantize(int32_t code, const float* x, int64_t n, float scale, uint8_t* stored) {
  static const QuantizeKernel kernel = choose_quantize();
  kernel(code, x, n, scale, stored);
}

float own_scale(int32_t code, const float* x, int64_t n) {
  constexpr int32_t kInfinity = 0x7f800000;  // magnitudes compare as their bits do; those of NaN lie above
  const bool keeps_nan = code == OCTAVO_KV_FP8_E4M3;
  int32_t largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int32_t magnitude = __builtin_bit_cast(int32_t, x[i]) & 0x7fffffff;
    const int32_t counted = keeps_nan && magnitude > kInfinity ? 0 : magnitude;
    largest = counted > largest ? counted : largest;
  }
  if (largest > kInfinity) return NAN;
  float scale = std::min(__builtin_bit_cast(float, largest), std::numeric_limits<float>::max()) / largest_code(code);
  if (code == OCTAVO_KV_INT4) {
    uint16_t half;
    quantize(OCTAVO_KV_FLOAT16, &scale, 1, 1.0f, reinterpret_cast<uint8_t*>(&half));
    scale = decode_f16(half);
  }
  return scale > 0 ? scale : 1.0f;
}

void dequantize(int32_t code, const uint8_t* stored, int64_t n, float scale, float* x) {
  switch (code) {
    case OCTAVO_KV_FLOAT32:
      return dequantize_as<float>(stored, n, scale, x, [](float x) { return x; });
    case OCTAVO_KV_FLOAT16:
      return dequantize_as<uint16_t>(stored, n, scale, x, decode_f16);
    case OCTAVO_KV_BFLOAT16:
      return dequantize_as<uint16_t>(stored, n, scale, x, [](uint16_t bits) {
        return __builtin_bit_cast(float, static_cast<uint32_t>(bits) << 16);
      });
    case OCTAVO_KV_INT8:
      return dequantize_as<int8_t>(stored, n, scale, x, [](int8_t value) { return static_cast<float>(value); });
    case OCTAVO_KV_INT4:
      for (int64_t i = 0; i < n; ++i) x[i] = static_cast<float>((stored[i / 2] >> (i % 2 * 4) & 15) - 8) * scale;
      return;
    default:
      return dequantize_as<uint8_t>(stored, n, scale, x,
                                    [table = fp8_table(code)](uint8_t stored_code) { return table[stored_code]; });
  }
}

}  // namespace octavo
