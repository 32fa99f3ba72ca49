// f32 to the stored formats, without branches so that the compiler vectorises the loops. Included by one file per
// instruction set, inside octavo's namespace; everything here is private to that file.

namespace {

// A narrow binary float: 1 sign bit, an exponent, kMantissaBits of mantissa.
template <int kMantissaBits, int kBias, uint32_t kMaxCode, uint32_t kNanCode, uint32_t kSignCode, class Code>
struct Narrow {
  using Stored = Code;

  static uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }
  static float float_of(uint32_t bits) { return __builtin_bit_cast(float, bits); }

  static constexpr int kShift = 23 - kMantissaBits;
  static constexpr uint32_t kExponentShift = uint32_t{127 - kBias} << kMantissaBits;  // f32's bias to ours, in codes
  static constexpr uint32_t kMaxBits = (kMaxCode + kExponentShift) << kShift;         // largest finite value as f32
  static constexpr uint32_t kMinNormalBits = uint32_t{128 - kBias} << 23;
  // Subnormals are multiples of 2^(1 - bias - mantissa bits), which is the last place of floats in [magic, 2 magic):
  // adding magic rounds to them, to nearest even.
  static constexpr uint32_t kMagicBits = uint32_t{127 + 23 + 1 - kBias - kMantissaBits} << 23;

  static Code encode(float x) {
    const uint32_t bits = bits_of(x);
    const uint32_t sign = bits >> 31 ? kSignCode : 0;
    const uint32_t magnitude = bits & 0x7fffffffu;
    const uint32_t clamped = magnitude < kMaxBits ? magnitude : kMaxBits;
    const uint32_t rounded = clamped + ((1u << (kShift - 1)) - 1) + ((clamped >> kShift) & 1u);
    const uint32_t normal = (rounded >> kShift) - kExponentShift;
    const uint32_t subnormal = bits_of(float_of(clamped) + float_of(kMagicBits)) - kMagicBits;
    const uint32_t finite = clamped < kMinNormalBits ? subnormal : normal;
    return static_cast<Code>(sign | (magnitude > 0x7f800000u ? kNanCode : finite));
  }
};

// bfloat16 has f32's exponents: its subnormals round as its other values do.
struct Bfloat16 {
  using Stored = uint16_t;
  static uint16_t encode(float x) {
    const uint32_t bits = __builtin_bit_cast(uint32_t, x);
    const uint32_t magnitude = bits & 0x7fffffffu;
    const uint32_t clamped = magnitude < 0x7f7f0000u ? magnitude : 0x7f7f0000u;
    const uint32_t finite = (clamped + 0x7fffu + ((clamped >> 16) & 1u)) >> 16;
    return static_cast<uint16_t>(((bits >> 16) & 0x8000u) | (magnitude > 0x7f800000u ? 0x7fc0u : finite));
  }
};

struct Float32 {
  using Stored = uint32_t;
  static uint32_t encode(float x) { return __builtin_bit_cast(uint32_t, x); }
};

// Rounds as the narrow floats do: adding 1.5 x 2^23 leaves the integer in the low bits.
struct Int8 {
  using Stored = uint8_t;
  static uint8_t encode(float x) {
    const float low = x > -127.0f ? x : -127.0f;  // NaN too
    const float clamped = low < 127.0f ? low : 127.0f;
    return static_cast<uint8_t>(__builtin_bit_cast(uint32_t, clamped + 12582912.0f));
  }
};

// Two codes a byte.
inline void quantize_int4(const float* x, int64_t n, float scale, uint8_t* stored) {
  const auto encode = [scale](float value) {
    const float y = value / scale;
    const float low = y > -7.0f ? y : -7.0f;  // NaN too
    const float clamped = low < 7.0f ? low : 7.0f;
    return __builtin_bit_cast(uint32_t, clamped + 12582920.0f) & 15u;  // 1.5 x 2^23 + 8
  };
  for (int64_t i = 0; i < n / 2; ++i) {
    stored[i] = static_cast<uint8_t>(encode(x[2 * i]) | encode(x[2 * i + 1]) << 4);
  }
}

using Float16 = Narrow<10, 15, 0x7bff, 0x7e00, 0x8000, uint16_t>;
using E4m3 = Narrow<3, 7, 0x7e, 0x7f, 0x80, uint8_t>;
using E5m2 = Narrow<2, 15, 0x7b, 0x7f, 0x80, uint8_t>;

template <class Format>
void quantize_as(const float* x, int64_t n, float scale, uint8_t* stored) {
  for (int64_t i = 0; i < n; ++i) {
    const typename Format::Stored code = Format::encode(x[i] / scale);
    __builtin_memcpy(stored + i * static_cast<int64_t>(sizeof code), &code, sizeof code);
  }
}

void quantize_any(int32_t code, const float* x, int64_t n, float scale, uint8_t* stored) {
  switch (code) {
    case OCTAVO_KV_FLOAT32:
      return quantize_as<Float32>(x, n, scale, stored);
    case OCTAVO_KV_FLOAT16:
      return quantize_as<Float16>(x, n, scale, stored);
    case OCTAVO_KV_BFLOAT16:
      return quantize_as<Bfloat16>(x, n, scale, stored);
    case OCTAVO_KV_FP8_E4M3:
      return quantize_as<E4m3>(x, n, scale, stored);
    case OCTAVO_KV_INT8:
      return quantize_as<Int8>(x, n, scale, stored);
    case OCTAVO_KV_INT4:
      return quantize_int4(x, n, scale, stored);
    default:
      return quantize_as<E5m2>(x, n, scale, stored);
  }
}

}  // namespace
