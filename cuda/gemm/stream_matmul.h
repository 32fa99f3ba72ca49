// The streaming products: weights read once at the memory's speed, for few tokens.
//
// A tile is 128 rows of W; its steps are 128 bytes of each row. `split` blocks share the steps of a tile and add their
// sums in a fixed order; `num_groups` such groups of blocks take the tiles in turn, as many each as can be, so that all
// finish together. How a matrix is cut depends on it and on the card alone: an output's terms are added in the same
// order whatever the number of tokens.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "arch/gpu.h"
#include "gemm/device_matmul.h"

namespace octavo {

// How a matrix is cut: block b is rank b % split of group b / split, which takes tiles group, group + num_groups, ..
struct StreamPlan {
  int32_t num_tiles;
  int32_t tile_steps;  // along the columns
  int32_t split;       // 1, 2, 4 or 8
  int32_t num_groups;
  int32_t step_cols;  // columns of a step
  int32_t gate;       // 1: a tile's lines are 8 rows of gate, 8 of up, and so on
};

struct StreamParams {
  CUtensorMap w_map;  // Hopper only, as x_map
  CUtensorMap x_map;
  StreamPlan plan;
  const void* w;
  const void* x;
  int64_t x_stride;  // elements
  const float* row_scales;  // f32[rows] or nullptr
  const float* x_scales;    // f32[m] or nullptr
  const float* bias;        // f32[rows] or nullptr
  void* y;
  int64_t y_stride;   // elements
  float* partials;    // two exchange buffers a block
  int32_t* counters;  // [block][2], warps that have stored into a buffer; 0 between launches
  int32_t rows;       // of W
  int32_t cols;
  int32_t m;
  int32_t y_dtype;
  MatmulEpilogue epilogue;
};

StreamPlan plan_stream(const DeviceMatrix& w, MatmulEpilogue epilogue);

// Whether the kernels of the current device multiply E4M3 by E4M3.
bool stream_takes_e4m3();

// The most tokens one launch takes on the current device, a power of two.
int32_t stream_max_columns();

// Bytes of exchange buffers for launches of up to `columns` tokens, and of counters, on the current device.
size_t stream_partial_bytes(int32_t columns);
size_t stream_counter_bytes();

// Lets the kernels use their shared memory; to be called before the first launch.
void prepare_stream(int32_t weight_dtype, int32_t x_dtype);

// Enqueues one product of any m, more than stream_max_columns() in several launches. Arguments are as DeviceMatmul has
// checked them; counters must be 0.
void stream_matmul(const MatmulArgs& args, int32_t x_dtype, float* partials, int32_t* counters, GpuStream stream,
                   bool overlap);

}  // namespace octavo
