#include "ops/rope.h"

#include <cmath>

#include "ops/token_loop.h"

namespace octavo {

void rope_tables(const int32_t* positions, int32_t num_tokens, const float* inv_freq, int32_t half, float factor,
                 float* cosines, float* sines, ThreadPool& threads) {
  constexpr int64_t kFloatsPerAngle = 64;  // a sine and a cosine cost about as much as moving so many floats
  for_each_token(threads, num_tokens, half * kFloatsPerAngle, [&](int32_t token) {
    const float position = static_cast<float>(positions[token]);
    float* cosine = cosines + int64_t{token} * half;
    float* sine = sines + int64_t{token} * half;
    for (int32_t i = 0; i < half; ++i) {
      const float angle = position * inv_freq[i];
      cosine[i] = std::cos(angle) * factor;
      sine[i] = std::sin(angle) * factor;
    }
  });
}

}  // namespace octavo
