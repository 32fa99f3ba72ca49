// Weights that are made up (OCTAVO_FILE_RANDOM): a pure function of seed, tensor and element, by integers up to one
// rounding, so that every build makes the same model.
#pragma once

#include <cstdint>

#include "arch/host_device.h"

namespace octavo {

// splitmix64's finaliser (Steele, Lea, Flood: Fast splittable pseudorandom number generators).
OCTAVO_HOST_DEVICE inline uint64_t mix_bits(uint64_t x) {
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
  x = (x ^ x >> 27) * 0x94D049BB133111EBu;
  return x ^ x >> 31;
}

// What random_normal() takes for a tensor.
inline uint64_t random_stream(int64_t seed, int32_t role, int32_t layer) {
  const uint64_t tensor = static_cast<uint64_t>(static_cast<uint32_t>(role)) << 32 | static_cast<uint32_t>(layer);
  return mix_bits(mix_bits(static_cast<uint64_t>(seed) + 0x9E3779B97F4A7C15u) ^ tensor);
}

// Element index of a stream: near enough normal (the sum of 8 uniform numbers of 16 bits: at most 4.9 standard
// deviations, kurtosis 2.85), mean 0, standard deviation 0.02.
OCTAVO_HOST_DEVICE inline float random_normal(uint64_t stream, uint64_t index) {
  constexpr uint64_t kStep = 0x9E3779B97F4A7C15u;
  int32_t sum = 0;
  for (uint64_t half = 0; half < 2; ++half) {
    const uint64_t bits = mix_bits(stream + (2 * index + half + 1) * kStep);
    for (int i = 0; i < 4; ++i) sum += static_cast<int32_t>(bits >> (16 * i) & 0xFFFF);
  }
  constexpr int32_t kTwiceMean = 8 * 0xFFFF;
  // sqrt(8 * (2^32 - 1) / 12) = 53509.22..., and twice that for the doubled sum.
  constexpr float kScale = 0.02f / 107018.44f;
  return static_cast<float>(2 * sum - kTwiceMean) * kScale;
}

}  // namespace octavo
