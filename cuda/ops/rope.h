// Rotary position embedding: the cosines and sines of a step's tokens, computed once for all layers.
#pragma once

#include <cstdint>

#include "arch/thread_pool.h"

namespace octavo {

// For token t and pair i: angle = float(positions[t]) * inv_freq[i], rounded to f32 as transformers does it;
// cosines[t][i] and sines[t][i] are those of angle times factor. Both are [num_tokens][half].
void rope_tables(const int32_t* positions, int32_t num_tokens, const float* inv_freq, int32_t half, float factor,
                 float* cosines, float* sines, ThreadPool& threads);

}  // namespace octavo
