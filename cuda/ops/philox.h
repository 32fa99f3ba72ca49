// Philox4x32-10, a counter-based random generator: Salmon, Moraes, Dror and Shaw 2011, "Parallel Random Numbers: As Easy
// as 1, 2, 3". A number depends only on key and counter, so a sequence draws the same ones in any batch.
#pragma once

#include <array>
#include <cstdint>

namespace octavo {

inline std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = uint64_t{0xD2511F53} * counter[0];
    const uint64_t second = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(second >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(second),
               static_cast<uint32_t>(first >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(first)};
    key = {key[0] + 0x9E3779B9, key[1] + 0xBB67AE85};
  }
  return counter;
}

// The number in [0, 1) of draw sample_index under a seed: 53 bits from counter (sample_index, 0, 0, 0).
inline double uniform_draw(uint32_t seed_low, uint32_t seed_high, uint32_t sample_index) {
  const std::array<uint32_t, 4> bits = philox4x32({sample_index, 0, 0, 0}, {seed_low, seed_high});
  return (static_cast<double>(bits[0] >> 5) * 67108864.0 + static_cast<double>(bits[1] >> 6)) * 0x1p-53;
}

}  // namespace octavo
