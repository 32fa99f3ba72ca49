#include "attn/prefill_mma.cuh"

template octavo::PrefillLauncher octavo::find_prefill_mma<octavo::StoredE5m2>(int head_dim);
