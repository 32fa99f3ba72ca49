// Products and sums of sizes that come from outside.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "arch/error.h"

namespace octavo {

// The product of factors. Throws Error (OCTAVO_OUT_OF_MEMORY) naming what when it does not fit 63 bits.
inline uint64_t checked_product(const char* what, std::initializer_list<uint64_t> factors) {
  uint64_t product = 1;
  for (const uint64_t factor : factors) {
    if (__builtin_mul_overflow(product, factor, &product) || product > INT64_MAX) {
      fail(OCTAVO_OUT_OF_MEMORY, "the size of %s does not fit 63 bits", what);
    }
  }
  return product;
}

// a + b. Throws as checked_product.
inline uint64_t checked_sum(const char* what, uint64_t a, uint64_t b) {
  uint64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum) || sum > INT64_MAX) {
    fail(OCTAVO_OUT_OF_MEMORY, "the size of %s does not fit 63 bits", what);
  }
  return sum;
}

}  // namespace octavo
