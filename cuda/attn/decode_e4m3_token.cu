#include "attn/decode_instances.cuh"

template octavo::DecodeLauncher octavo::find_decode<octavo::StoredE4m3Token>(int head_dim, int tiles, bool wide);
