// A stage's weights as MMA operands in registers. A warp's 16 rows lie at `rows`; row r at r * 128, chunk c of 16 bytes
// at c ^ (r & 7).
#pragma once

#include "arch/widen.cuh"
#include "gemm/stream_tile.h"

namespace octavo {

// Fragment of k16 step `step` (16 bytes of E4M3 a row): a lane takes columns 2t, 2t + 1, 2t + 8, 2t + 9 of rows g, g + 8.
template <int kType>
__device__ inline void load_e4m3_fragment(uint32_t rows, int step, int lane, uint32_t (&a)[4]) {
  const int g = lane >> 2;
  const uint32_t at = rows + g * 128 + ((g ^ step) << 4) + 2 * (lane & 3);
  a[0] = widen_e4m3x2<kType>(load_shared_16(at));
  a[1] = widen_e4m3x2<kType>(load_shared_16(at + 8 * 128));
  a[2] = widen_e4m3x2<kType>(load_shared_16(at + 8));
  a[3] = widen_e4m3x2<kType>(load_shared_16(at + 8 * 128 + 8));
}

// Fragment of k16 step `step` of 16-bit weights (32 bytes a row).
__device__ inline void load_16_bit_fragment(uint32_t rows, int step, int lane, uint32_t (&a)[4]) {
  const int row = lane & 15;
  const int chunk = 2 * step + (lane >> 4);
  ldmatrix_x4(a, rows + row * 128 + ((chunk ^ (row & 7)) << 4));
}

}  // namespace octavo
