// Vector primitives of attention_kernel.inl in plain C++: four lanes by the compiler's vector extension.

namespace {

constexpr int kLanes = 4;
constexpr int kRowBlock = 2;
constexpr int kScoreVecs = 4;
constexpr int kValueVecs = 4;
// Whether a tile may be kept as float16, converted at each load: load(const uint16_t*), transpose_chunk and
// widen_two_chunks then write float16 bits too, for FP8 and float16.
constexpr bool kHalfTile = false;
constexpr float kE4m3Factor = 1.0f;  // f32 of a converted E4M3 x this = its value

typedef float Vec __attribute__((vector_size(16)));
typedef int32_t VecInt __attribute__((vector_size(16)));

OCTAVO_INLINE Vec splat(float x) { return Vec{x, x, x, x}; }
OCTAVO_INLINE Vec load(const float* from) {
  Vec x;
  __builtin_memcpy(&x, from, sizeof x);
  return x;
}
OCTAVO_INLINE void store(float* to, Vec x) { __builtin_memcpy(to, &x, sizeof x); }
// Where a compiler would load a vector again for each use: keeps it in its register.
OCTAVO_INLINE void hold(Vec&) {}
OCTAVO_INLINE Vec add(Vec a, Vec b) { return a + b; }
OCTAVO_INLINE Vec subtract(Vec a, Vec b) { return a - b; }
OCTAVO_INLINE Vec mul(Vec a, Vec b) { return a * b; }
OCTAVO_INLINE Vec divide(Vec a, Vec b) { return a / b; }
OCTAVO_INLINE Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
// b where either is NaN, as in all min_of and max_of.
OCTAVO_INLINE Vec max_of(Vec a, Vec b) { return a > b ? a : b; }
OCTAVO_INLINE Vec min_of(Vec a, Vec b) { return a < b ? a : b; }

OCTAVO_INLINE float horizontal_max(Vec x) {
  const float low = x[0] > x[2] ? x[0] : x[2];
  const float high = x[1] > x[3] ? x[1] : x[3];
  return low > high ? low : high;
}
OCTAVO_INLINE float horizontal_sum(Vec x) { return (x[0] + x[2]) + (x[1] + x[3]); }

// x in lanes first to end - 1, other elsewhere; first and end may lie outside the lanes.
OCTAVO_INLINE Vec keep_lanes(Vec x, int64_t first, int64_t end, Vec other) {
  for (int lane = 0; lane < kLanes; ++lane) x[lane] = lane >= first && lane < end ? x[lane] : other[lane];
  return x;
}

// p x 2^n by adding n to the exponent; 0 where x < -125, NaN where x is NaN. shifted is n + 1.5 x 2^23: its low bits are n.
OCTAVO_INLINE Vec times_power_of_two(Vec p, Vec shifted, Vec, Vec x) {
  const VecInt bits = __builtin_bit_cast(VecInt, p) + (__builtin_bit_cast(VecInt, shifted) << 23);
  const Vec power = __builtin_bit_cast(Vec, bits);
  const Vec finite = x < splat(-125.0f) ? splat(0.0f) : power;
  return x == x ? finite : x;
}

template <int kDtype>
OCTAVO_INLINE const float* table_of() {
  return kDtype == OCTAVO_KV_FP8_E4M3 || kDtype == OCTAVO_KV_FP8_E5M2 ? fp8_table(kDtype) : nullptr;
}

// Element i of a stored chunk, by table_of its dtype.
template <int kDtype>
OCTAVO_INLINE float element(const uint8_t* chunk, int i, const float* table) {
  if constexpr (kDtype == OCTAVO_KV_FLOAT32) {
    float x;
    __builtin_memcpy(&x, chunk + 4 * i, sizeof x);
    return x;
  } else if constexpr (kDtype == OCTAVO_KV_BFLOAT16) {
    uint16_t code;
    __builtin_memcpy(&code, chunk + 2 * i, sizeof code);
    return __builtin_bit_cast(float, uint32_t{code} << 16);
  } else if constexpr (kDtype == OCTAVO_KV_FLOAT16) {
    float x;
    dequantize(OCTAVO_KV_FLOAT16, chunk + 2 * i, 1, 1.0f, &x);
    return x;
  } else if constexpr (kDtype == OCTAVO_KV_INT8) {
    return static_cast<int8_t>(chunk[i]);
  } else {
    return table[chunk[i]];
  }
}

constexpr int elements_of_chunk(int dtype) {
  return dtype == OCTAVO_KV_FLOAT32 ? 4 : dtype == OCTAVO_KV_FLOAT16 || dtype == OCTAVO_KV_BFLOAT16 ? 8 : 16;
}

// to[16 d + token] = element d of chunk_of(token), 16 tokens.
template <int kDtype, class ChunkOf>
OCTAVO_INLINE void transpose_chunk(const ChunkOf& chunk_of, float* to) {
  const float* table = table_of<kDtype>();
  for (int token = 0; token < 16; ++token) {
    const uint8_t* chunk = chunk_of(token);
    for (int d = 0; d < elements_of_chunk(kDtype); ++d) to[16 * d + token] = element<kDtype>(chunk, d, table);
  }
}

// to[d] = element d of chunk.
template <int kDtype>
OCTAVO_INLINE void widen_chunk(const uint8_t* chunk, float* to) {
  const float* table = table_of<kDtype>();
  for (int d = 0; d < elements_of_chunk(kDtype); ++d) to[d] = element<kDtype>(chunk, d, table);
}

// Two chunks, one after the other.
template <int kDtype>
OCTAVO_INLINE void widen_two_chunks(const uint8_t* first, const uint8_t* second, float* to) {
  widen_chunk<kDtype>(first, to);
  widen_chunk<kDtype>(second, to + elements_of_chunk(kDtype));
}

// Whether NaN codes need patching after conversion: the table knows them.
OCTAVO_INLINE bool has_e4m3_nan(const uint8_t*, int64_t) { return false; }

}  // namespace
