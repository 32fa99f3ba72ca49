// Loops over the tokens of a step whose tokens do not depend on each other.
#pragma once

#include <algorithm>
#include <cstdint>

#include "arch/thread_pool.h"

namespace octavo {

// Calls body(token) for every token in [0, num_tokens). floats_per_token: what one call reads and writes. A parallel loop
// costs a few microseconds, so a small one (a decode step's) runs on the caller.
template <class Body>
void for_each_token(ThreadPool& threads, int32_t num_tokens, int64_t floats_per_token, Body&& body) {
  constexpr int64_t kSerialFloats = 65536;  // about 10 us of work
  constexpr int32_t kTokensPerTask = 8;
  if (threads.size() == 1 || num_tokens * floats_per_token <= kSerialFloats) {
    for (int32_t token = 0; token < num_tokens; ++token) body(token);
    return;
  }
  threads.run((int64_t{num_tokens} + kTokensPerTask - 1) / kTokensPerTask, [&](int64_t task, int) {
    const int32_t begin = static_cast<int32_t>(task) * kTokensPerTask;
    const int32_t end = std::min(num_tokens, begin + kTokensPerTask);
    for (int32_t token = begin; token < end; ++token) body(token);
  });
}

}  // namespace octavo
