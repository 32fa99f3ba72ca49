#include "attn/decode_instances.cuh"

template octavo::DecodeLauncher octavo::find_decode<octavo::StoredInt4>(int head_dim, int tiles, bool wide);
