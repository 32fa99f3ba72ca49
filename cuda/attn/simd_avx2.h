// Vector primitives of attention_kernel.inl for AVX2, FMA and F16C: eight lanes. See simd_portable.h for each function's
// meaning.

namespace {

constexpr int kLanes = 8;
constexpr int kRowBlock = 4;
constexpr int kScoreVecs = 2;
constexpr int kValueVecs = 2;
constexpr bool kHalfTile = true;
// E4M3's fields lie in a float16 like those of a value 2^8 times smaller.
constexpr float kE4m3Factor = 256.0f;

using Vec = __m256;

OCTAVO_INLINE Vec splat(float x) { return _mm256_set1_ps(x); }
OCTAVO_INLINE Vec load(const float* from) { return _mm256_loadu_ps(from); }
OCTAVO_INLINE Vec load(const uint16_t* from) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
OCTAVO_INLINE void store(float* to, Vec x) { _mm256_storeu_ps(to, x); }
OCTAVO_INLINE void hold(Vec& x) { asm("" : "+x"(x)); }
OCTAVO_INLINE Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
OCTAVO_INLINE Vec subtract(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
OCTAVO_INLINE Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
OCTAVO_INLINE Vec divide(Vec a, Vec b) { return _mm256_div_ps(a, b); }
OCTAVO_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
OCTAVO_INLINE Vec max_of(Vec a, Vec b) { return _mm256_max_ps(a, b); }
OCTAVO_INLINE Vec min_of(Vec a, Vec b) { return _mm256_min_ps(a, b); }

OCTAVO_INLINE float horizontal_max(Vec x) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

OCTAVO_INLINE float horizontal_sum(Vec x) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

OCTAVO_INLINE Vec keep_lanes(Vec x, int64_t first, int64_t end, Vec other) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const int from = static_cast<int>(first < 0 ? 0 : first);
  const int to = static_cast<int>(end > kLanes ? kLanes : end);
  const __m256i keep = _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(from), lane),
                                           _mm256_cmpgt_epi32(_mm256_set1_epi32(to), lane));
  return _mm256_blendv_ps(other, x, _mm256_castsi256_ps(keep));
}

OCTAVO_INLINE Vec times_power_of_two(Vec p, Vec shifted, Vec, Vec x) {
  const __m256i bits = _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_castps_si256(shifted), 23));
  const Vec power = _mm256_and_ps(_mm256_castsi256_ps(bits), _mm256_cmp_ps(x, splat(-125.0f), _CMP_NLT_UQ));
  return _mm256_blendv_ps(power, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}

OCTAVO_INLINE __m128i load_chunk(const uint8_t* chunk) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(chunk));
}

// 16 codes to the bits of float16.
template <int kDtype>
OCTAVO_INLINE __m256i fp8_to_f16_bits(__m128i codes) {
  const __m256i wide = _mm256_cvtepi8_epi16(codes);
  if constexpr (kDtype == OCTAVO_KV_FP8_E5M2) return _mm256_slli_epi16(wide, 8);
  // s eeee mmm -> (widened) s..s eeee mmm -> (<< 7) s s eeee mmm 0000000 -> s 0 eeee mmm 0000000
  return _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16(static_cast<short>(0xbfff)));
}

OCTAVO_INLINE void store_halves(__m256i halves, float* low, float* high) {
  store(low, _mm256_cvtph_ps(_mm256_castsi256_si128(halves)));
  store(high, _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1)));
}
OCTAVO_INLINE void store_halves(__m256i halves, uint16_t* low, uint16_t* high) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(low), _mm256_castsi256_si128(halves));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(high), _mm256_extracti128_si256(halves, 1));
}

// 16 int8 codes to f32.
OCTAVO_INLINE void store_int8(__m128i codes, float* low, float* high) {
  store(low, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes)));
  store(high, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(codes, 8))));
}

// One 32-bit word of each of eight tokens' chunks: its 1, 2 or 4 elements go to rows of 16 tokens.
template <int kDtype, class Element>
OCTAVO_INLINE void store_words(__m256i words, Element* to) {
  if constexpr (kDtype == OCTAVO_KV_FLOAT32) {
    store(to, _mm256_castsi256_ps(words));
  } else if constexpr (kDtype == OCTAVO_KV_BFLOAT16) {
    store(to, _mm256_castsi256_ps(_mm256_slli_epi32(words, 16)));
    store(to + 16, _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32(static_cast<int>(0xffff0000u)))));
  } else if constexpr (kDtype == OCTAVO_KV_FLOAT16) {
    const __m256i by_element = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,  //
                                                0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    store_halves(_mm256_permute4x64_epi64(_mm256_shuffle_epi8(words, by_element), 0xd8), to, to + 16);
  } else {
    const __m256i by_element = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,  //
                                                0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(words, by_element),
                                                      _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    if constexpr (kDtype == OCTAVO_KV_INT8) {
      store_int8(_mm256_castsi256_si128(bytes), to, to + 16);
      store_int8(_mm256_extracti128_si256(bytes, 1), to + 32, to + 48);
    } else {
      store_halves(fp8_to_f16_bits<kDtype>(_mm256_castsi256_si128(bytes)), to, to + 16);
      store_halves(fp8_to_f16_bits<kDtype>(_mm256_extracti128_si256(bytes, 1)), to + 32, to + 48);
    }
  }
}

// Tokens i and i + 4 of eight side by side, then a 4 x 4 transposition of 32-bit words in each half.
template <int kDtype, class ChunkOf, class Element>
OCTAVO_INLINE void transpose_chunk(const ChunkOf& chunk_of, Element* to) {
  constexpr int kWordElements = kDtype == OCTAVO_KV_FLOAT32 ? 1 : kDtype >= OCTAVO_KV_FP8_E4M3 ? 4 : 2;
  for (int half = 0; half < 2; ++half) {
    __m256i t[4];
    for (int i = 0; i < 4; ++i) {
      t[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(load_chunk(chunk_of(8 * half + i))),
                                     load_chunk(chunk_of(8 * half + i + 4)), 1);
    }
    const __m256i a = _mm256_unpacklo_epi32(t[0], t[1]);
    const __m256i b = _mm256_unpackhi_epi32(t[0], t[1]);
    const __m256i c = _mm256_unpacklo_epi32(t[2], t[3]);
    const __m256i d = _mm256_unpackhi_epi32(t[2], t[3]);
    Element* column = to + 8 * half;
    store_words<kDtype>(_mm256_unpacklo_epi64(a, c), column);
    store_words<kDtype>(_mm256_unpackhi_epi64(a, c), column + 16 * kWordElements);
    store_words<kDtype>(_mm256_unpacklo_epi64(b, d), column + 32 * kWordElements);
    store_words<kDtype>(_mm256_unpackhi_epi64(b, d), column + 48 * kWordElements);
  }
}

template <int kDtype>
OCTAVO_INLINE void widen_chunk(const uint8_t* chunk, float* to) {
  const __m128i codes = load_chunk(chunk);
  if constexpr (kDtype == OCTAVO_KV_FLOAT32) {
    _mm_storeu_ps(to, _mm_castsi128_ps(codes));
  } else if constexpr (kDtype == OCTAVO_KV_BFLOAT16) {
    store(to, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(codes), 16)));
  } else if constexpr (kDtype == OCTAVO_KV_FLOAT16) {
    store(to, _mm256_cvtph_ps(codes));
  } else if constexpr (kDtype == OCTAVO_KV_INT8) {
    store_int8(codes, to, to + 8);
  } else {
    store_halves(fp8_to_f16_bits<kDtype>(codes), to, to + 8);
  }
}

template <int kDtype>
OCTAVO_INLINE void widen_chunk(const uint8_t* chunk, uint16_t* to) {
  const __m128i codes = load_chunk(chunk);
  if constexpr (kDtype == OCTAVO_KV_FLOAT16) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), codes);
  } else {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), fp8_to_f16_bits<kDtype>(codes));
  }
}

template <int kDtype, class Element>
OCTAVO_INLINE void widen_two_chunks(const uint8_t* first, const uint8_t* second, Element* to) {
  widen_chunk<kDtype>(first, to);
  widen_chunk<kDtype>(second, to + (kDtype == OCTAVO_KV_FLOAT32 ? 4 : kDtype >= OCTAVO_KV_FP8_E4M3 ? 16 : 8));
}

// Whether any of the codes is 0x7f or 0xff. bytes is a multiple of 256.
OCTAVO_INLINE bool has_e4m3_nan(const uint8_t* codes, int64_t bytes) {
  __m256i largest = _mm256_setzero_si256();  // of code x 2: NaN is 0xfe
  for (int64_t i = 0; i < bytes; i += 32) {
    const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + i));
    largest = _mm256_max_epu8(largest, _mm256_add_epi8(x, x));
  }
  const __m256i found = _mm256_cmpeq_epi8(largest, _mm256_set1_epi8(static_cast<char>(0xfe)));
  return _mm256_testz_si256(found, found) == 0;
}

}  // namespace
