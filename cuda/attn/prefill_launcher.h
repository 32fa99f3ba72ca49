// How attn/prefill.cu reaches the prefill kernels, which are compiled in a file for each format.
#pragma once

#include "attn/prefill.h"

namespace octavo {

struct StoredE4m3;
struct StoredE5m2;
struct StoredF16;
struct StoredBf16;

struct PrefillLauncher {
  // num_items: tiles times kv heads, at most.
  void (*launch)(const PrefillParams& params, int num_items, GpuStream stream, bool overlap);
  int tile_rows;
};

// launch is nullptr where there is no kernel for a head_dim.
template <class Stored>
PrefillLauncher find_prefill_mma(int head_dim);

// head_dim: of the granules, in the pages or in the scratch.
template <bool kBf16>
PrefillLauncher find_prefill_wgmma(int head_dim);

}  // namespace octavo
