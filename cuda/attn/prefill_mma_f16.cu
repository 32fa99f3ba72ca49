#include "attn/prefill_mma.cuh"

template octavo::PrefillLauncher octavo::find_prefill_mma<octavo::StoredF16>(int head_dim);
