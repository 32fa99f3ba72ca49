// Kernels for AVX2, FMA and F16C: vpmaddwd on the even and the odd bytes of the weights.
#if defined(__x86_64__)
#include <immintrin.h>

#include "gemm/kernel_template.h"

namespace octavo {
namespace {

struct Avx2 {
  static constexpr int kParts = 2;  // a register holds a quad of 8 rows
  static constexpr int kTokensAtOnce = 4;
  using Bytes = __m256i;
  using Ints = __m256i;
  using Floats = __m256;
  using Sum = Ints;

  static Bytes load(const uint8_t* p, int part) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32 * part));
  }
  static Bytes mask(Bytes a, int byte) { return _mm256_and_si256(a, _mm256_set1_epi8(static_cast<char>(byte))); }
  // Left by kBits, or right by -kBits, in lanes of 16 bits.
  template <int kBits>
  static Bytes shift(Bytes a) {
    if constexpr (kBits > 0) return _mm256_slli_epi16(a, kBits);
    if constexpr (kBits < 0) return _mm256_srli_epi16(a, -kBits);
    return a;
  }
  // a | (b & byte)
  static Bytes merge(Bytes a, Bytes b, int byte) { return _mm256_or_si256(a, mask(b, byte)); }
  static Bytes lookup(Bytes index, const uint8_t* table) {
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table))),
                               index);
  }

  static Ints load_int8(const uint8_t* p, int part) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8 * part)));
  }
  static Ints load_uint8(const uint8_t* p, int part) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8 * part)));
  }
  static Ints bits(Ints a, int first, int mask) {
    return _mm256_and_si256(_mm256_srli_epi32(a, first), _mm256_set1_epi32(mask));
  }
  static Ints times16(Ints a) { return _mm256_slli_epi32(a, 4); }
  static Ints add(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
  static Ints add(Ints a, int b) { return _mm256_add_epi32(a, _mm256_set1_epi32(b)); }

  static Sum start(int32_t value) { return _mm256_set1_epi32(value); }
  static void dot(Sum& sum, Bytes weights, const Activation& x, int quad) {
    const Ints even = _mm256_and_si256(weights, _mm256_set1_epi16(0xFF)), odd = _mm256_srli_epi16(weights, 8);
    sum = _mm256_add_epi32(sum, _mm256_add_epi32(_mm256_madd_epi16(even, _mm256_set1_epi32(x.data[2 * quad])),
                                                 _mm256_madd_epi16(odd, _mm256_set1_epi32(x.data[2 * quad + 1]))));
  }
  static Ints finish(Sum sum) { return sum; }

  static void arrange(const int32_t rounded[kBlockCols], int32_t data[16]) { arrange_pairs(rounded, data); }

  static Floats to_floats(Ints a) { return _mm256_cvtepi32_ps(a); }
  static Floats broadcast(float a) { return _mm256_set1_ps(a); }
  static Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
  static Floats mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
  static Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
  static Floats load_half(const uint8_t* p, int part) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16 * part)));
  }
  template <octavo_dtype kDtype>
  static Floats load_elements(const uint8_t* p, int part) {
    if constexpr (kDtype == OCTAVO_F16) return load_half(p, part);
    if constexpr (kDtype == OCTAVO_F32) return _mm256_loadu_ps(reinterpret_cast<const float*>(p + 32 * part));
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16 * part)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }
  static void store(Floats a, float* p, int lanes) {
    const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    _mm256_maskstore_ps(p, mask, a);
  }
};

constexpr KernelSet kKernels = make_kernels<Avx2>();

}  // namespace

const KernelSet& kernels_avx2() { return kKernels; }

}  // namespace octavo

#endif  // __x86_64__
