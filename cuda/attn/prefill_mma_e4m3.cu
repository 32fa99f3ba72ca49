#include "attn/prefill_mma.cuh"

template octavo::PrefillLauncher octavo::find_prefill_mma<octavo::StoredE4m3>(int head_dim);
