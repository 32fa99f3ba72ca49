#include "attn/decode_instances.cuh"

template octavo::DecodeLauncher octavo::find_decode<octavo::StoredE5m2>(int head_dim, int tiles, bool wide);
