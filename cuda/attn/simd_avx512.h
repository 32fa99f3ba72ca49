// Vector primitives of attention_kernel.inl for AVX-512 F, BW, DQ and VL: sixteen lanes. See simd_portable.h for each
// function's meaning.

namespace {

constexpr int kLanes = 16;
constexpr int kRowBlock = 6;
constexpr int kScoreVecs = 4;
constexpr int kValueVecs = 4;
// E4M3's fields lie in a float16 like those of a value 2^8 times smaller.
constexpr float kE4m3Factor = 256.0f;

using Vec = __m512;

inline Vec splat(float x) { return _mm512_set1_ps(x); }
inline Vec load(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, Vec x) { _mm512_storeu_ps(to, x); }
inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec divide(Vec a, Vec b) { return _mm512_div_ps(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec max_of(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec min_of(Vec a, Vec b) { return _mm512_min_ps(a, b); }

inline float horizontal_max(Vec x) {
  __m256 y = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

inline float horizontal_sum(Vec x) {
  __m256 y = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

inline Vec keep_lanes(Vec x, int64_t first, int64_t end, Vec other) {
  const uint32_t from = first <= 0 ? 0u : (1u << first) - 1u;
  const uint32_t to = end >= kLanes ? 0xffffu : (1u << end) - 1u;
  return _mm512_mask_mov_ps(other, static_cast<__mmask16>(to & ~from), x);
}

inline Vec exp2_of(Vec x) {
  const Vec clamped = max_of(splat(-126.0f), x);  // NaN stays
  const Vec shifted = add(clamped, splat(12582912.0f));
  const Vec n = _mm512_sub_ps(shifted, splat(12582912.0f));
  const Vec f = _mm512_sub_ps(clamped, n);
  Vec p = splat(0.000154531634f);
  p = fma(p, f, splat(0.00133908633f));
  p = fma(p, f, splat(0.00961808302f));
  p = fma(p, f, splat(0.0555035695f));
  p = fma(p, f, splat(0.240226507f));
  p = fma(p, f, splat(0.693147182f));
  p = fma(p, f, splat(1.0f));
  return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, splat(-125.0f), _CMP_NLT_UQ), p, n);
}

inline __m128i load_chunk(const uint8_t* chunk) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(chunk));
}

// s s eeee mmm 0000000 (E4M3, widened and shifted) -> s 0 eeee mmm 0000000, a float16.
inline __m512i clear_second_sign(__m512i halves) {
  return _mm512_and_si512(halves, _mm512_set1_epi16(static_cast<short>(0xbfff)));
}

inline void store_halves(__m512i halves, float* low, float* high) {
  store(low, _mm512_cvtph_ps(_mm512_castsi512_si256(halves)));
  store(high, _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1)));
}

// One 32-bit word of each of 16 tokens' chunks, as f32: its 1, 2 or 4 elements go to rows stride floats apart.
template <int kDtype>
inline void store_words(__m512i words, float* to, int64_t stride) {
  if constexpr (kDtype == OCTAVO_KV_FLOAT32) {
    store(to, _mm512_castsi512_ps(words));
  } else if constexpr (kDtype == OCTAVO_KV_BFLOAT16) {
    store(to, _mm512_castsi512_ps(_mm512_slli_epi32(words, 16)));
    store(to + stride, _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(static_cast<int>(0xffff0000u)))));
  } else if constexpr (kDtype == OCTAVO_KV_FLOAT16) {
    const __m512i by_element =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
    const __m512i apart = _mm512_shuffle_epi8(words, by_element);
    store_halves(_mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), apart), to, to + stride);
  } else {
    // In each quarter of 4 tokens: element 0 of all four, element 1, 2, 3. Then so that the low halves of the quarters
    // hold elements 0 and 1 of the 16 tokens in order, the high halves elements 2 and 3.
    const __m512i by_element =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const __m512i order = _mm512_setr_epi32(0, 4, 2, 6, 8, 12, 10, 14, 1, 5, 3, 7, 9, 13, 11, 15);
    const __m512i bytes = _mm512_permutexvar_epi32(order, _mm512_shuffle_epi8(words, by_element));
    __m512i first = _mm512_unpacklo_epi8(_mm512_setzero_si512(), bytes);
    __m512i second = _mm512_unpackhi_epi8(_mm512_setzero_si512(), bytes);
    if constexpr (kDtype == OCTAVO_KV_FP8_E4M3) {
      first = clear_second_sign(_mm512_srai_epi16(first, 1));
      second = clear_second_sign(_mm512_srai_epi16(second, 1));
    }
    store_halves(first, to, to + stride);
    store_halves(second, to + 2 * stride, to + 3 * stride);
  }
}

// Tokens i, i + 4, i + 8 and i + 12 side by side, then a 4 x 4 transposition of 32-bit words in each quarter.
template <int kDtype, class ChunkOf>
inline void transpose_chunk(const ChunkOf& chunk_of, float* to, int64_t stride) {
  constexpr int kWordElements = kDtype == OCTAVO_KV_FLOAT32 ? 1 : kDtype >= OCTAVO_KV_FP8_E4M3 ? 4 : 2;
  __m512i t[4];
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_castsi128_si512(load_chunk(chunk_of(i)));
    t[i] = _mm512_inserti32x4(t[i], load_chunk(chunk_of(i + 4)), 1);
    t[i] = _mm512_inserti32x4(t[i], load_chunk(chunk_of(i + 8)), 2);
    t[i] = _mm512_inserti32x4(t[i], load_chunk(chunk_of(i + 12)), 3);
  }
  const __m512i a = _mm512_unpacklo_epi32(t[0], t[1]);
  const __m512i b = _mm512_unpackhi_epi32(t[0], t[1]);
  const __m512i c = _mm512_unpacklo_epi32(t[2], t[3]);
  const __m512i d = _mm512_unpackhi_epi32(t[2], t[3]);
  store_words<kDtype>(_mm512_unpacklo_epi64(a, c), to, stride);
  store_words<kDtype>(_mm512_unpackhi_epi64(a, c), to + kWordElements * stride, stride);
  store_words<kDtype>(_mm512_unpacklo_epi64(b, d), to + 2 * kWordElements * stride, stride);
  store_words<kDtype>(_mm512_unpackhi_epi64(b, d), to + 3 * kWordElements * stride, stride);
}

template <int kDtype>
inline void widen_chunk(const uint8_t* chunk, float* to) {
  const __m128i codes = load_chunk(chunk);
  if constexpr (kDtype == OCTAVO_KV_FLOAT32) {
    _mm_storeu_ps(to, _mm_castsi128_ps(codes));
  } else if constexpr (kDtype == OCTAVO_KV_BFLOAT16) {
    _mm256_storeu_ps(to, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(codes), 16)));
  } else if constexpr (kDtype == OCTAVO_KV_FLOAT16) {
    _mm256_storeu_ps(to, _mm256_cvtph_ps(codes));
  } else {
    __m256i halves = _mm256_slli_epi16(_mm256_cvtepi8_epi16(codes), kDtype == OCTAVO_KV_FP8_E4M3 ? 7 : 8);
    if constexpr (kDtype == OCTAVO_KV_FP8_E4M3) {
      halves = _mm256_and_si256(halves, _mm256_set1_epi16(static_cast<short>(0xbfff)));
    }
    store(to, _mm512_cvtph_ps(halves));
  }
}

// Whether any of the codes is 0x7f or 0xff. bytes is a multiple of 256.
inline bool has_e4m3_nan(const uint8_t* codes, int64_t bytes) {
  __m512i largest = _mm512_setzero_si512();  // of code x 2: NaN is 0xfe
  for (int64_t i = 0; i < bytes; i += 64) {
    const __m512i x = _mm512_loadu_si512(codes + i);
    largest = _mm512_max_epu8(largest, _mm512_add_epi8(x, x));
  }
  return _mm512_cmpeq_epi8_mask(largest, _mm512_set1_epi8(static_cast<char>(0xfe))) != 0;
}

}  // namespace
