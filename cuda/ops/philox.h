// Philox4x32-10, a counter-based random generator: Salmon, Moraes, Dror and Shaw 2011, "Parallel Random Numbers: As Easy
// as 1, 2, 3". A number depends only on key and counter, so a sequence draws the same ones in any batch.
#pragma once

#include <cstdint>

#include "arch/host_device.h"

namespace octavo {

struct PhiloxWords {
  uint32_t word[4];
};

OCTAVO_HOST_DEVICE inline PhiloxWords philox4x32(PhiloxWords counter, uint32_t key_low, uint32_t key_high) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = uint64_t{0xD2511F53} * counter.word[0];
    const uint64_t second = uint64_t{0xCD9E8D57} * counter.word[2];
    counter = {{static_cast<uint32_t>(second >> 32) ^ counter.word[1] ^ key_low, static_cast<uint32_t>(second),
                static_cast<uint32_t>(first >> 32) ^ counter.word[3] ^ key_high, static_cast<uint32_t>(first)}};
    key_low += 0x9E3779B9;
    key_high += 0xBB67AE85;
  }
  return counter;
}

// The number in [0, 1) of draw sample_index under a seed: 53 bits from counter (sample_index, 0, 0, 0).
OCTAVO_HOST_DEVICE inline double uniform_draw(uint32_t seed_low, uint32_t seed_high, uint32_t sample_index) {
  const PhiloxWords bits = philox4x32({{sample_index, 0, 0, 0}}, seed_low, seed_high);
  return (static_cast<double>(bits.word[0] >> 5) * 67108864.0 + static_cast<double>(bits.word[1] >> 6)) * 0x1p-53;
}

}  // namespace octavo
