#include "attn/prefill_wgmma.cuh"

template octavo::PrefillLauncher octavo::find_prefill_wgmma<true>(int head_dim);
