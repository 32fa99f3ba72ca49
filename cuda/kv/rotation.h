// The rotation of rotated KV formats (octavo.h, octavo_kv_dtype).
#pragma once

#include <cstdint>

namespace octavo {

// x = H x in place, x: [head_dim]. H is its own inverse. Sums are taken over pairs of neighbours 1, 2, 4, .. apart, in
// this order, then multiplied by 1 / sqrt(block): GPU builds store the same bytes.
void rotate_head(float* x, int32_t head_dim);

}  // namespace octavo
