// REQUIRE(condition, format, ...): ends a host test that does not hold, saying where and why.
#pragma once

#include <cstdio>
#include <cstdlib>

#define REQUIRE(condition, ...)                                   \
  do {                                                            \
    if (!(condition)) {                                           \
      std::printf("%s:%d: %s: ", __FILE__, __LINE__, #condition); \
      std::printf(__VA_ARGS__);                                   \
      std::printf("\n");                                          \
      std::exit(1);                                               \
    }                                                             \
  } while (0)
