#include "attn/prefill_wgmma.cuh"

template octavo::PrefillLauncher octavo::find_prefill_wgmma<false>(int head_dim);
