// A checksum of a page's bytes, by which a page that changes while it must not is found. Words are mixed with their place
// and added, in any order: the CPU and the GPU give the same number for the same bytes.
#pragma once

#include <cstdint>

#include "arch/host_device.h"

namespace octavo {

// The share of the 8-byte word at a place (SplitMix64's mixing: every bit of both decides every bit).
OCTAVO_HOST_DEVICE inline uint64_t checksum_share(uint64_t word, int64_t place) {
  uint64_t z = word + static_cast<uint64_t>(place + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

}  // namespace octavo
