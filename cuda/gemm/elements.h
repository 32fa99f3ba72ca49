// Single elements of the plain dtypes to f32 and back, by integers, so that host and device give the same bits.
#pragma once

#include <cstdint>
#include <cstring>

#include "arch/host_device.h"
#include "octavo.h"

namespace octavo {

OCTAVO_HOST_DEVICE inline float float_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

OCTAVO_HOST_DEVICE inline uint32_t bits_of_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

OCTAVO_HOST_DEVICE inline uint16_t load_u16(const uint8_t* p) { return static_cast<uint16_t>(p[0] | p[1] << 8); }

OCTAVO_HOST_DEVICE inline uint32_t load_u32(const uint8_t* p) {
  return load_u16(p) | static_cast<uint32_t>(load_u16(p + 2)) << 16;
}

// The exponent's bias moves by 112; subnormals become normal by one exact subtraction.
OCTAVO_HOST_DEVICE inline float f16_to_float(uint16_t half) {
  const uint32_t exponent = half & 0x7C00u;
  const uint32_t bias = exponent == 0x7C00u ? 224u : exponent == 0 ? 113u : 112u;
  float magnitude = float_of_bits(((half & 0x7FFFu) << 13) + (bias << 23));
  if (exponent == 0) magnitude -= 0x1p-14f;
  return (half & 0x8000u) != 0 ? -magnitude : magnitude;
}

OCTAVO_HOST_DEVICE inline float bf16_to_float(uint16_t bits) { return float_of_bits(static_cast<uint32_t>(bits) << 16); }

// E4M3FN: no infinity; 0x7F and 0xFF are NaN.
OCTAVO_HOST_DEVICE inline float e4m3_to_float(uint8_t code) {
  const uint32_t exponent = code >> 3 & 15u, mantissa = code & 7u;
  float magnitude = exponent == 0 ? static_cast<float>(mantissa) * 0x1p-9f
                                  : float_of_bits((exponent + 120u) << 23 | mantissa << 20);
  if ((code & 0x7F) == 0x7F) magnitude = float_of_bits(0x7FC00000u);
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}

// Rounds to nearest even; infinities and NaN stay what they are.
OCTAVO_HOST_DEVICE inline uint16_t float_to_bf16(float value) {
  const uint32_t bits = bits_of_float(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

// Bytes of an element of a plain dtype, 0 for others.
OCTAVO_HOST_DEVICE constexpr int plain_bytes(int32_t dtype) {
  switch (dtype) {
    case OCTAVO_F32: return 4;
    case OCTAVO_F16:
    case OCTAVO_BF16: return 2;
    case OCTAVO_F8_E4M3: return 1;
    default: return 0;
  }
}

// One element of a plain dtype; source need not be aligned.
OCTAVO_HOST_DEVICE inline float load_element(int32_t dtype, const uint8_t* source) {
  switch (dtype) {
    case OCTAVO_F32: return float_of_bits(load_u32(source));
    case OCTAVO_F16: return f16_to_float(load_u16(source));
    case OCTAVO_BF16: return bf16_to_float(load_u16(source));
    default: return e4m3_to_float(*source);
  }
}

}  // namespace octavo
