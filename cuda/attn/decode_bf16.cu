#include "attn/decode_instances.cuh"

template octavo::DecodeLauncher octavo::find_decode<octavo::StoredBf16>(int head_dim, int tiles, bool wide);
