// The streaming products: weights read once at the memory's speed, for few tokens.
//
// The steps of all tiles (128 rows x 128 bytes of columns) stand in one line, cut into equal ranges, one a block, so that
// all multiprocessors finish together ("stream-K"). The cuts depend on the matrix and the card alone: an output's terms
// are added in the same order whatever the number of tokens.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "arch/gpu.h"
#include "gemm/device_matmul.h"

namespace octavo {

// How a matrix is cut.
struct StreamPlan {
  int32_t num_tiles;
  int32_t tile_steps;   // steps of one tile: along the columns
  int32_t total_steps;
  int32_t num_blocks;   // ranges

  // Steps [begin(b), begin(b + 1)) are block b's.
#if defined(__CUDACC__)
  __host__ __device__
#endif
  int begin(int block) const {
    return static_cast<int>(static_cast<int64_t>(total_steps) * block / num_blocks);
  }

  // The block whose range holds the step.
#if defined(__CUDACC__)
  __host__ __device__
#endif
  int block_of(int step) const {
    return static_cast<int>((static_cast<int64_t>(step + 1) * num_blocks - 1) / total_steps);
  }
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
  float* partials;    // two slots a block, in the order of the threads' sums
  int32_t* counters;  // [num_blocks][2]: blocks that have stored, that have merged; 0 between launches
  int32_t rows;       // of W
  int32_t cols;
  int32_t m;
  int32_t y_dtype;
  MatmulEpilogue epilogue;
};

StreamPlan plan_stream(int32_t rows, int32_t cols, int32_t dtype);

// Whether the kernels of the current device multiply E4M3 by E4M3.
bool stream_takes_e4m3();

// The most tokens one launch takes on the current device, a power of two.
int32_t stream_max_columns(int32_t weight_dtype, int32_t x_dtype);

// Bytes of partial sums for launches of up to `columns` tokens, and of counters, on the current device.
size_t stream_partial_bytes(int32_t columns);
size_t stream_counter_bytes();

// Lets the kernels use their shared memory; to be called before the first launch.
void prepare_stream(int32_t weight_dtype, int32_t x_dtype);

// Enqueues one product of any m, more than stream_max_columns() in several launches. Arguments are as DeviceMatmul has
// checked them; counters must be 0.
void stream_matmul(const MatmulArgs& args, int32_t x_dtype, float* partials, int32_t* counters, GpuStream stream,
                   bool overlap);

}  // namespace octavo
