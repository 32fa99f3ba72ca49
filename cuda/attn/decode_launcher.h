// How attn/decode.cu reaches the kernels, which are compiled in a file for each stored format.
#pragma once

#include "attn/decode.h"

namespace octavo {

struct StoredE4m3;
struct StoredE4m3Token;
struct StoredInt8;
struct StoredK8V4;
struct StoredInt4;
struct StoredE5m2;
struct StoredF16;
struct StoredBf16;

struct DecodeLauncher {
  void (*launch)(const DecodeParams& params, int num_ranges, GpuStream stream, bool overlap);
  int step_tokens;
  int slot_floats;
  BlockWalk walk;
};

// The launcher for a head_dim and number of column tiles (1, 2, 4); launch is nullptr where there is none.
template <class Stored>
DecodeLauncher find_decode(int head_dim, int tiles, bool wide);

}  // namespace octavo
