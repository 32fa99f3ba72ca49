// Body of the vector ops: included inside an unnamed namespace by one file per instruction set (vector_ops_*.cpp),
// which are compiled with different flags. Vectors are those of GCC and Clang, as wide as the file's instructions have
// them. exp and tanh follow the Cephes library's single-precision expf and tanhf (S. L. Moshier), about 1 ulp.

#if defined(__AVX512F__)
constexpr int32_t kLanes = 16;
#elif defined(__AVX2__)
constexpr int32_t kLanes = 8;
#else
constexpr int32_t kLanes = 4;
#endif

typedef float Floats __attribute__((vector_size(kLanes * 4)));
typedef int32_t Ints __attribute__((vector_size(kLanes * 4)));

constexpr float kInfinity = __builtin_inff();

inline Floats splat(float value) { return Floats{} + value; }

// Lanes i .. i + kLanes - 1 of x[n]; those past the end hold fill.
//
//   x  [0 ... kLanes) [kLanes ... 2 kLanes) ... [i ... n) fill fill
inline Floats load(const float* x, int32_t i, int32_t n, float fill = 0.0f) {
  Floats lanes = splat(fill);
  if (i + kLanes <= n) {
    __builtin_memcpy(&lanes, x + i, sizeof lanes);
  } else {
    for (int32_t lane = 0; i + lane < n; ++lane) lanes[lane] = x[i + lane];
  }
  return lanes;
}

inline void store(float* x, int32_t i, int32_t n, Floats lanes) {
  if (i + kLanes <= n) {
    __builtin_memcpy(x + i, &lanes, sizeof lanes);
  } else {
    for (int32_t lane = 0; i + lane < n; ++lane) x[i + lane] = lanes[lane];
  }
}

inline float sum_lanes(Floats lanes) {
  float sum = 0.0f;
  for (int32_t lane = 0; lane < kLanes; ++lane) sum += lanes[lane];
  return sum;
}

// exp(x); 0 below -87.33, where f32 leaves its normal range, and at most exp(88).
inline Floats exp_lanes(Floats x) {
  constexpr float kLowest = -87.33f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low mantissa bits
  const Ints is_tiny = x < splat(kLowest);
  x = is_tiny ? splat(kLowest) : x;
  x = x > splat(88.0f) ? splat(88.0f) : x;
  const Floats shifted = x * 1.44269504088896341f + kRound;
  const Floats count = shifted - kRound;
  const Floats r = (x - count * 0.693359375f) - count * -2.12194440e-4f;  // ln 2 in two parts
  Floats p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // 2^count: the low mantissa bits of shifted hold count, moved into the exponent.
  const Ints power = (reinterpret_cast<Ints>(shifted) + 127) << 23;
  return is_tiny ? Floats{} : p * reinterpret_cast<Floats>(power);
}

// tanh(x): Cephes' polynomial near 0, where 1 - 2 / (exp(2x) + 1) would cancel.
inline Floats tanh_lanes(Floats x) {
  const Floats square = x * x;
  Floats p = splat(-5.70498872745e-3f);
  p = p * square + 2.06390887954e-2f;
  p = p * square - 5.37397155531e-2f;
  p = p * square + 1.33314422036e-1f;
  p = p * square - 3.33332819422e-1f;
  const Floats near_zero = p * square * x + x;
  const Floats far = 1.0f - 2.0f / (exp_lanes(x + x) + 1.0f);
  return square < splat(0.625f * 0.625f) ? near_zero : far;
}

void rms_norm(const float* x, const float* weight, int32_t n, float eps, float* out) {
  Floats squares{};
  for (int32_t i = 0; i < n; i += kLanes) {
    const Floats lanes = load(x, i, n);
    squares += lanes * lanes;
  }
  const float scale = 1.0f / __builtin_sqrtf(sum_lanes(squares) / static_cast<float>(n) + eps);
  for (int32_t i = 0; i < n; i += kLanes) store(out, i, n, load(x, i, n) * scale * load(weight, i, n));
}

void add(float* x, const float* y, int32_t n) {
  for (int32_t i = 0; i < n; i += kLanes) store(x, i, n, load(x, i, n) + load(y, i, n));
}

void scale(float* x, int32_t n, float factor) {
  for (int32_t i = 0; i < n; i += kLanes) store(x, i, n, load(x, i, n) * factor);
}

//   x  [0 ... half) [half ... 2 half)     x[i], x[i + half] turn by angle i
void rotate(float* x, const float* cosines, const float* sines, int32_t half) {
  for (int32_t i = 0; i < half; i += kLanes) {
    const Floats first = load(x, i, half), second = load(x + half, i, half);
    const Floats cosine = load(cosines, i, half), sine = load(sines, i, half);
    store(x, i, half, first * cosine - second * sine);
    store(x + half, i, half, second * cosine + first * sine);
  }
}

void silu_gate(float* gate, const float* up, int32_t n) {
  for (int32_t i = 0; i < n; i += kLanes) {
    const Floats x = load(gate, i, n);
    store(gate, i, n, x / (1.0f + exp_lanes(-x)) * load(up, i, n));
  }
}

// 0.5 (1 + tanh u) = 1 / (1 + exp(-2u)), which keeps its precision for negative u.
void gelu_tanh_gate(float* gate, const float* up, int32_t n) {
  constexpr float kSqrtTwoOverPi = 0.79788456080286535588f;
  for (int32_t i = 0; i < n; i += kLanes) {
    const Floats x = load(gate, i, n);
    const Floats u = kSqrtTwoOverPi * (x + 0.044715f * x * x * x);
    store(gate, i, n, x / (1.0f + exp_lanes(-2.0f * u)) * load(up, i, n));
  }
}

void softcap(float* x, int32_t n, float cap) {
  for (int32_t i = 0; i < n; i += kLanes) store(x, i, n, cap * tanh_lanes(load(x, i, n) / cap));
}

void block_max(const float* x, int32_t n, float* maxima) {
  for (int32_t begin = 0; begin < n; begin += kVectorBlock) {
    const int32_t end = n - begin < kVectorBlock ? n : begin + kVectorBlock;
    Floats largest = splat(-kInfinity);
    for (int32_t i = begin; i < end; i += kLanes) {
      const Floats lanes = load(x, i, end, -kInfinity);
      largest = lanes > largest ? lanes : largest;  // false for NaN
    }
    float result = -kInfinity;
    for (int32_t lane = 0; lane < kLanes; ++lane) result = largest[lane] > result ? largest[lane] : result;
    maxima[begin / kVectorBlock] = result;
  }
}

void exp_weights(const float* x, int32_t n, float max, float temperature, float* weights, float* block_sums) {
  for (int32_t begin = 0; begin < n; begin += kVectorBlock) {
    const int32_t end = n - begin < kVectorBlock ? n : begin + kVectorBlock;
    Floats sum{};
    for (int32_t i = begin; i < end; i += kLanes) {
      const Floats lanes = load(x, i, end, -kInfinity);
      const Floats exponent = (lanes - max) / temperature;
      const Floats weight = exponent <= Floats{} ? exp_lanes(exponent) : Floats{};  // NaN gives 0
      sum += weight;
      store(weights, i, end, weight);
    }
    block_sums[begin / kVectorBlock] = sum_lanes(sum);
  }
}

constexpr VectorOps kOps = {rms_norm,       add,     scale,     rotate,     silu_gate,
                            gelu_tanh_gate, softcap, block_max, exp_weights};
