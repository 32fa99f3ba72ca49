// Kernels in plain C++ with the compiler's vectors of 16 bytes, and the dequantisation of single rows.
#include "gemm/kernel_template.h"

namespace octavo {
namespace {

// data holds the activations as 16-bit numbers, in order.
struct Portable {
  static constexpr int kParts = 4;  // a register holds a quad of 4 rows
  static constexpr int kTokensAtOnce = 4;
  using Bytes = uint8_t __attribute__((vector_size(16)));
  using Shorts = uint16_t __attribute__((vector_size(16)));
  using Words = uint32_t __attribute__((vector_size(16)));
  using Ints = int32_t __attribute__((vector_size(16)));
  using Floats = float __attribute__((vector_size(16)));
  using Sum = Ints;

  template <class T>
  static T load_as(const uint8_t* p) {
    T vector;
    __builtin_memcpy(&vector, p, sizeof vector);
    return vector;
  }
  static Bytes load(const uint8_t* p, int part) { return load_as<Bytes>(p + 16 * part); }
  static Bytes mask(Bytes a, int byte) { return a & static_cast<uint8_t>(byte); }
  // Left by kBits, or right by -kBits, in lanes of 16 bits.
  template <int kBits>
  static Bytes shift(Bytes a) {
    if constexpr (kBits > 0) return (Bytes)((Shorts)a << kBits);
    if constexpr (kBits < 0) return (Bytes)((Shorts)a >> -kBits);
    return a;
  }
  // a | (b & byte)
  static Bytes merge(Bytes a, Bytes b, int byte) { return a | mask(b, byte); }
  static Bytes lookup(Bytes index, const uint8_t* table) {
    uint8_t bytes[16];
    __builtin_memcpy(bytes, &index, sizeof bytes);
    for (uint8_t& byte : bytes) byte = table[byte];
    return load_as<Bytes>(bytes);
  }

  static Ints load_int8(const uint8_t* p, int part) {
    return Ints{static_cast<int8_t>(p[4 * part]), static_cast<int8_t>(p[4 * part + 1]),
                static_cast<int8_t>(p[4 * part + 2]), static_cast<int8_t>(p[4 * part + 3])};
  }
  static Ints load_uint8(const uint8_t* p, int part) {
    return Ints{p[4 * part], p[4 * part + 1], p[4 * part + 2], p[4 * part + 3]};
  }
  static Ints bits(Ints a, int first, int mask) { return (a >> first) & mask; }
  static Ints times16(Ints a) { return a << 4; }
  static Ints add(Ints a, Ints b) { return a + b; }
  static Ints add(Ints a, int b) { return a + b; }

  static Sum start(int32_t value) { return Ints{value, value, value, value}; }
  static void dot(Sum& sum, Bytes weights, const Activation& x, int quad) {
    int16_t values[4];
    __builtin_memcpy(values, x.data + 2 * quad, sizeof values);
    const Words words = (Words)weights;
    sum += (Ints)(words & 0xFF) * values[0] + (Ints)((words >> 8) & 0xFF) * values[1] +
           (Ints)((words >> 16) & 0xFF) * values[2] + (Ints)(words >> 24) * values[3];
  }
  static Ints finish(Sum sum) { return sum; }

  static void arrange(const int32_t rounded[kBlockCols], int32_t data[16]) {
    int16_t values[kBlockCols];
    for (int i = 0; i < kBlockCols; ++i) values[i] = static_cast<int16_t>(rounded[i]);
    __builtin_memcpy(data, values, sizeof values);
  }

  static Floats to_floats(Ints a) { return __builtin_convertvector(a, Floats); }
  static Floats broadcast(float a) { return Floats{a, a, a, a}; }
  static Floats add(Floats a, Floats b) { return a + b; }
  static Floats mul(Floats a, Floats b) { return a * b; }
  static Floats fma(Floats a, Floats b, Floats c) { return a * b + c; }
  // f16 to f32 in integers: the exponent's bias moves by 112; subnormals become normal by one exact subtraction.
  static Floats load_half(const uint8_t* p, int part) {
    Floats floats;
    for (int i = 0; i < 4; ++i) {
      uint16_t half;
      __builtin_memcpy(&half, p + 2 * (4 * part + i), sizeof half);
      const uint32_t exponent = half & 0x7C00u;
      uint32_t bits = (half & 0x7FFFu) << 13;
      bits += exponent == 0x7C00 ? 224u << 23 : exponent == 0 ? 113u << 23 : 112u << 23;
      float magnitude;
      __builtin_memcpy(&magnitude, &bits, sizeof magnitude);
      if (exponent == 0) magnitude -= 0x1p-14f;
      floats[i] = (half & 0x8000u) != 0 ? -magnitude : magnitude;
    }
    return floats;
  }
  template <octavo_dtype kDtype>
  static Floats load_elements(const uint8_t* p, int part) {
    if constexpr (kDtype == OCTAVO_F16) return load_half(p, part);
    if constexpr (kDtype == OCTAVO_F32) return load_as<Floats>(p + 16 * part);
    const uint8_t* first = p + 8 * part;
    uint16_t values[4];
    __builtin_memcpy(values, first, sizeof values);
    return (Floats)(Words{values[0], values[1], values[2], values[3]} << 16);
  }
  static void store(Floats a, float* p, int lanes) {
    for (int i = 0; i < lanes; ++i) p[i] = a[i];
  }
};

constexpr KernelSet kKernels = make_kernels<Portable>();

// Unpacks the row's vector of rows and keeps its lane.
template <int kFormat>
void dequantize_row(const uint8_t* strip, int64_t cols, int lane, float* out) {
  constexpr Format format = kFormats[kFormat];
  constexpr int packed_bytes = format.packed_bytes(), quant_bytes = 64 * (format.low_bits + format.high_bits);
  const int part = lane / 4, element = lane % 4;
  for (int64_t col = 0; col < cols; col += format.block_cols, strip += packed_bytes) {
    if constexpr (format.scales == Scales::kNone) {
      out[col] = Portable::load_elements<format.dtype>(strip, part)[element];
    } else {
      for (int block = 0; block < format.blocks(); ++block) {
        Portable::Bytes quads[kQuads];
        Portable::Floats scale[2], minimum[2];
        unroll<kQuads>([&](auto q) {
          quads[q.value] = unpack<Portable, kFormat, q.value>(strip + format.scale_bytes() + quant_bytes * block, part);
        });
        load_scales<Portable, kFormat>(strip, block, part, scale, minimum);
        for (int i = 0; i < kBlockCols; ++i) {
          const int group = i * format.groups / kBlockCols;
          const float quant = static_cast<float>(quads[i / 4][4 * element + i % 4] - format.offset);
          float value = scale[group][element] * quant;
          if constexpr (format.minimums()) value += minimum[group][element];
          out[col + kBlockCols * block + i] = value;
        }
      }
    }
  }
}

}  // namespace

const KernelSet& kernels_portable() { return kKernels; }

const DequantizeRow kDequantizeRow[kNumFormats] = {
    dequantize_row<0>,  dequantize_row<1>,  dequantize_row<2>,  dequantize_row<3>,  dequantize_row<4>,
    dequantize_row<5>,  dequantize_row<6>,  dequantize_row<7>,  dequantize_row<8>,  dequantize_row<9>,
    dequantize_row<10>, dequantize_row<11>, dequantize_row<12>, dequantize_row<13>, dequantize_row<14>,
};

}  // namespace octavo
