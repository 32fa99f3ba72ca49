// The vectors of AVX-512 for kernel_template.h, but for the product of bytes, which the including file adds.
#pragma once

// GCC 12 warns of its own _mm512_undefined_*() (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include "gemm/kernel.h"

namespace octavo {
namespace {

struct Avx512Vectors {
  static constexpr int kParts = 1;  // a register holds a quad of all 16 rows
  static constexpr int kTokensAtOnce = 8;
  using Bytes = __m512i;
  using Ints = __m512i;
  using Floats = __m512;

  static Bytes load(const uint8_t* p, int) { return _mm512_loadu_si512(p); }
  static Bytes mask(Bytes a, int byte) { return _mm512_and_si512(a, _mm512_set1_epi8(static_cast<char>(byte))); }
  // Left by kBits, or right by -kBits, in lanes of 16 bits.
  template <int kBits>
  static Bytes shift(Bytes a) {
    if constexpr (kBits > 0) return _mm512_slli_epi16(a, kBits);
    if constexpr (kBits < 0) return _mm512_srli_epi16(a, -kBits);
    return a;
  }
  // a | (b & byte)
  static Bytes merge(Bytes a, Bytes b, int byte) {
    return _mm512_ternarylogic_epi64(a, b, _mm512_set1_epi8(static_cast<char>(byte)), 0xF8);
  }
  static Bytes lookup(Bytes index, const uint8_t* table) {
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(table))), index);
  }

  static Ints load_int8(const uint8_t* p, int) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Ints load_uint8(const uint8_t* p, int) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Ints bits(Ints a, int first, int mask) {
    return _mm512_and_si512(_mm512_srli_epi32(a, static_cast<unsigned>(first)), _mm512_set1_epi32(mask));
  }
  static Ints times16(Ints a) { return _mm512_slli_epi32(a, 4); }
  static Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
  static Ints add(Ints a, int b) { return _mm512_add_epi32(a, _mm512_set1_epi32(b)); }

  static Floats to_floats(Ints a) { return _mm512_cvtepi32_ps(a); }
  static Floats broadcast(float a) { return _mm512_set1_ps(a); }
  static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  static Floats load_half(const uint8_t* p, int) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  template <octavo_dtype kDtype>
  static Floats load_elements(const uint8_t* p, int part) {
    if constexpr (kDtype == OCTAVO_F16) return load_half(p, part);
    if constexpr (kDtype == OCTAVO_F32) return _mm512_loadu_ps(p);
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }
  static void store(Floats a, float* p, int lanes) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << lanes) - 1), a);
  }
};

}  // namespace
}  // namespace octavo
