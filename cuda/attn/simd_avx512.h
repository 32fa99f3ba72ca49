// Vector primitives of attention_kernel.inl for AVX-512 F, BW, DQ and VL: sixteen lanes. See simd_portable.h for each
// function's meaning.

namespace {

constexpr int kLanes = 16;
constexpr int kRowBlock = 6;
constexpr int kScoreVecs = 4;
constexpr int kValueVecs = 4;
constexpr bool kHalfTile = true;
// E4M3's fields lie in a float16 like those of a value 2^8 times smaller.
constexpr float kE4m3Factor = 256.0f;

using Vec = __m512;

OCTAVO_INLINE Vec splat(float x) { return _mm512_set1_ps(x); }
OCTAVO_INLINE Vec load(const float* from) { return _mm512_loadu_ps(from); }
OCTAVO_INLINE Vec load(const uint16_t* from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
OCTAVO_INLINE void store(float* to, Vec x) { _mm512_storeu_ps(to, x); }
OCTAVO_INLINE void hold(Vec& x) { asm("" : "+v"(x)); }
OCTAVO_INLINE Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
OCTAVO_INLINE Vec subtract(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
OCTAVO_INLINE Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
OCTAVO_INLINE Vec divide(Vec a, Vec b) { return _mm512_div_ps(a, b); }
OCTAVO_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
OCTAVO_INLINE Vec max_of(Vec a, Vec b) { return _mm512_max_ps(a, b); }
OCTAVO_INLINE Vec min_of(Vec a, Vec b) { return _mm512_min_ps(a, b); }

OCTAVO_INLINE float horizontal_max(Vec x) {
  __m256 y = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

OCTAVO_INLINE float horizontal_sum(Vec x) {
  __m256 y = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

OCTAVO_INLINE Vec keep_lanes(Vec x, int64_t first, int64_t end, Vec other) {
  const uint32_t from = first <= 0 ? 0u : (1u << first) - 1u;
  const uint32_t to = end >= kLanes ? 0xffffu : (1u << end) - 1u;
  return _mm512_mask_mov_ps(other, static_cast<__mmask16>(to & ~from), x);
}

OCTAVO_INLINE Vec times_power_of_two(Vec p, Vec, Vec n, Vec x) {
  return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, splat(-125.0f), _CMP_NLT_UQ), p, n);
}

OCTAVO_INLINE __m128i load_chunk(const uint8_t* chunk) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(chunk));
}

// s s eeee mmm 0000000 (E4M3, widened and shifted) -> s 0 eeee mmm 0000000, a float16.
OCTAVO_INLINE __m512i clear_second_sign(__m512i halves) {
  return _mm512_and_si512(halves, _mm512_set1_epi16(static_cast<short>(0xbfff)));
}

OCTAVO_INLINE void store_halves(__m512i halves, float* low, float* high) {
  store(low, _mm512_cvtph_ps(_mm512_castsi512_si256(halves)));
  store(high, _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1)));
}

OCTAVO_INLINE void store_halves(__m512i halves, uint16_t* low, uint16_t* high) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(low), _mm512_castsi512_si256(halves));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(high), _mm512_extracti64x4_epi64(halves, 1));
}

// Two elements of 16 tokens, each quarter with element 0 of four tokens, then element 1: brings each element's tokens
// together.
OCTAVO_INLINE __m512i join_quarters(__m512i quarters) {
  return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), quarters);
}

// Pairs of fp8 elements as above: elements 0 and 2 are the low bytes, 1 and 3 the high ones.
template <int kDtype, class Element>
OCTAVO_INLINE void store_fp8(__m512i quarters, Element* to) {
  const __m512i pairs = join_quarters(quarters);
  __m512i even = _mm512_slli_epi16(pairs, 8);
  __m512i odd = pairs;
  if constexpr (kDtype == OCTAVO_KV_FP8_E4M3) {
    const __m512i mask = _mm512_set1_epi16(static_cast<short>(0xbf80));
    even = _mm512_and_si512(_mm512_srai_epi16(even, 1), mask);
    odd = _mm512_and_si512(_mm512_srai_epi16(odd, 1), mask);
  } else {
    odd = _mm512_and_si512(odd, _mm512_set1_epi16(static_cast<short>(0xff00)));
  }
  store_halves(even, to, to + 32);
  store_halves(odd, to + 16, to + 48);
}

OCTAVO_INLINE void store_int16(__m512i integers, float* low, float* high) {
  store(low, _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm512_castsi512_si256(integers))));
  store(high, _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(integers, 1))));
}

// Pairs of int8 elements as in store_fp8.
OCTAVO_INLINE void store_int8(__m512i quarters, float* to) {
  const __m512i pairs = join_quarters(quarters);
  store_int16(_mm512_srai_epi16(_mm512_slli_epi16(pairs, 8), 8), to, to + 32);
  store_int16(_mm512_srai_epi16(pairs, 8), to + 16, to + 48);
}

template <class Element>
OCTAVO_INLINE void store_float16(__m512i quarters, Element* to) {
  store_halves(join_quarters(quarters), to, to + 16);
}

// Two elements of 16 tokens, side by side.
OCTAVO_INLINE void store_bfloat16(__m512i pairs, float* to) {
  store(to, _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)));
  store(to + 16, _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u)))));
}

// Tokens i, i + 4, i + 8 and i + 12 lie side by side in t[i]; two steps of interleaving then bring each element's four
// tokens of a quarter together.
template <int kDtype, class ChunkOf, class Element>
OCTAVO_INLINE void transpose_chunk(const ChunkOf& chunk_of, Element* to) {
  __m512i t[4];
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_castsi128_si512(load_chunk(chunk_of(i)));
    t[i] = _mm512_inserti32x4(t[i], load_chunk(chunk_of(i + 4)), 1);
    t[i] = _mm512_inserti32x4(t[i], load_chunk(chunk_of(i + 8)), 2);
    t[i] = _mm512_inserti32x4(t[i], load_chunk(chunk_of(i + 12)), 3);
  }
  if constexpr (kDtype != OCTAVO_KV_FLOAT32 && kDtype != OCTAVO_KV_BFLOAT16) {
    const __m512i a = _mm512_unpacklo_epi16(t[0], t[1]);
    const __m512i b = _mm512_unpackhi_epi16(t[0], t[1]);
    const __m512i c = _mm512_unpacklo_epi16(t[2], t[3]);
    const __m512i d = _mm512_unpackhi_epi16(t[2], t[3]);
    const __m512i quarters[4] = {_mm512_unpacklo_epi32(a, c), _mm512_unpackhi_epi32(a, c), _mm512_unpacklo_epi32(b, d),
                                 _mm512_unpackhi_epi32(b, d)};
    for (int i = 0; i < 4; ++i) {
      if constexpr (kDtype == OCTAVO_KV_FLOAT16) {
        store_float16(quarters[i], to + 32 * i);
      } else if constexpr (kDtype == OCTAVO_KV_INT8) {
        store_int8(quarters[i], to + 64 * i);
      } else {
        store_fp8<kDtype>(quarters[i], to + 64 * i);
      }
    }
  } else {
    const __m512i a = _mm512_unpacklo_epi32(t[0], t[1]);
    const __m512i b = _mm512_unpackhi_epi32(t[0], t[1]);
    const __m512i c = _mm512_unpacklo_epi32(t[2], t[3]);
    const __m512i d = _mm512_unpackhi_epi32(t[2], t[3]);
    const __m512i words[4] = {_mm512_unpacklo_epi64(a, c), _mm512_unpackhi_epi64(a, c), _mm512_unpacklo_epi64(b, d),
                              _mm512_unpackhi_epi64(b, d)};
    for (int i = 0; i < 4; ++i) {
      if constexpr (kDtype == OCTAVO_KV_BFLOAT16) {
        store_bfloat16(words[i], to + 32 * i);
      } else {
        store(to + 16 * i, _mm512_castsi512_ps(words[i]));
      }
    }
  }
}

// 16 codes to the bits of float16.
template <int kDtype>
OCTAVO_INLINE __m256i fp8_to_f16_bits(__m128i codes) {
  const __m256i wide = _mm256_cvtepi8_epi16(codes);
  if constexpr (kDtype == OCTAVO_KV_FP8_E5M2) return _mm256_slli_epi16(wide, 8);
  return _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16(static_cast<short>(0xbfff)));
}

template <int kDtype>
OCTAVO_INLINE void widen_chunk(const uint8_t* chunk, uint16_t* to) {
  if constexpr (kDtype == OCTAVO_KV_FLOAT16) {
    __builtin_memcpy(to, chunk, 16);
  } else {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), fp8_to_f16_bits<kDtype>(load_chunk(chunk)));
  }
}

template <int kDtype>
OCTAVO_INLINE void widen_chunk(const uint8_t* chunk, float* to) {
  const __m128i codes = load_chunk(chunk);
  if constexpr (kDtype == OCTAVO_KV_FLOAT32) {
    _mm_storeu_ps(to, _mm_castsi128_ps(codes));
  } else if constexpr (kDtype == OCTAVO_KV_BFLOAT16) {
    _mm256_storeu_ps(to, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(codes), 16)));
  } else if constexpr (kDtype == OCTAVO_KV_FLOAT16) {
    _mm256_storeu_ps(to, _mm256_cvtph_ps(codes));
  } else if constexpr (kDtype == OCTAVO_KV_INT8) {
    store(to, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes)));
  } else {
    store(to, _mm512_cvtph_ps(fp8_to_f16_bits<kDtype>(codes)));
  }
}

// The two lie in one 32-byte piece, in this order or swapped. FP8 loads the piece and swaps at the store: a chunk's 16
// elements are a whole vector.
template <int kDtype, class Element>
OCTAVO_INLINE void widen_two_chunks(const uint8_t* first, const uint8_t* second, Element* to) {
  const bool swapped = second - first < 0;  // a constant, unlike second < first
  if constexpr (kDtype == OCTAVO_KV_FP8_E4M3 || kDtype == OCTAVO_KV_FP8_E5M2) {
    const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(swapped ? second : first));
    __m512i halves = _mm512_slli_epi16(_mm512_cvtepi8_epi16(codes), kDtype == OCTAVO_KV_FP8_E4M3 ? 7 : 8);
    if constexpr (kDtype == OCTAVO_KV_FP8_E4M3) halves = clear_second_sign(halves);
    store_halves(halves, swapped ? to + 16 : to, swapped ? to : to + 16);
    return;
  }
  if constexpr (kDtype == OCTAVO_KV_INT8) {
    widen_chunk<kDtype>(first, to);
    widen_chunk<kDtype>(second, to + 16);
    return;
  }
  const __m256i codes = swapped ? _mm256_inserti128_si256(_mm256_castsi128_si256(load_chunk(first)), load_chunk(second), 1)
                                : _mm256_loadu_si256(reinterpret_cast<const __m256i*>(first));
  if constexpr (sizeof(Element) == 2) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), codes);
  } else if constexpr (kDtype == OCTAVO_KV_FLOAT32) {
    _mm256_storeu_ps(to, _mm256_castsi256_ps(codes));
  } else if constexpr (kDtype == OCTAVO_KV_BFLOAT16) {
    store(to, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(codes), 16)));
  } else if constexpr (kDtype == OCTAVO_KV_FLOAT16) {
    store(to, _mm512_cvtph_ps(codes));
  }
}

// Whether any of the codes is 0x7f or 0xff. bytes is a multiple of 256.
OCTAVO_INLINE bool has_e4m3_nan(const uint8_t* codes, int64_t bytes) {
  __m512i largest = _mm512_setzero_si512();  // of code x 2: NaN is 0xfe
  __m512i others = _mm512_setzero_si512();
  for (int64_t i = 0; i < bytes; i += 128) {
    const __m512i x = _mm512_loadu_si512(codes + i);
    const __m512i y = _mm512_loadu_si512(codes + i + 64);
    largest = _mm512_max_epu8(largest, _mm512_add_epi8(x, x));
    others = _mm512_max_epu8(others, _mm512_add_epi8(y, y));
  }
  largest = _mm512_max_epu8(largest, others);
  return _mm512_cmpeq_epi8_mask(largest, _mm512_set1_epi8(static_cast<char>(0xfe))) != 0;
}

}  // namespace
