#include "gemm/device_convert.h"

#include <algorithm>

#include "gemm/elements.h"
#include "gemm/file_block.h"
#include "kv/encode.cuh"
#include "model/random_weights.h"

namespace octavo {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 1 << 16;  // the kernels stride on
constexpr float kLargestE4m3 = 448;

int num_blocks(int64_t num_threads) {
  return static_cast<int>(std::min((num_threads + kThreads - 1) / kThreads, kMaxBlocks));
}

__device__ int64_t first_index() { return int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }
__device__ int64_t index_step() { return int64_t{gridDim.x} * blockDim.x; }

struct ExpandParams {
  FileRows rows;
  Format format;  // block formats only
  float* values;
};

__global__ void expand_plain_kernel(ExpandParams params) {
  const FileRows& rows = params.rows;
  const int bytes = plain_bytes(rows.dtype);
  const int64_t count = int64_t{rows.num_rows} * rows.cols;
  for (int64_t i = first_index(); i < count; i += index_step()) {
    const float value = load_element(rows.dtype, rows.data + bytes * i);
    params.values[i] = rows.row_scales == nullptr ? value : value * rows.row_scales[i / rows.cols];
  }
}

// A thread takes a block of the file.
__global__ void expand_block_kernel(ExpandParams params) {
  const Format format = params.format;
  const int64_t count = int64_t{params.rows.num_rows} * (params.rows.cols / format.block_cols);
  for (int64_t i = first_index(); i < count; i += index_step()) {
    dequantize_block(format, params.rows.data + i * format.block_bytes, params.values + i * format.block_cols);
  }
}

struct MakeUpParams {
  uint64_t random_stream;
  int64_t first_element;
  int64_t num_elements;
  float* values;
};

__global__ void make_up_kernel(MakeUpParams params) {
  for (int64_t i = first_index(); i < params.num_elements; i += index_step()) {
    const uint64_t element = static_cast<uint64_t>(params.first_element + i);
    params.values[i] = bf16_to_float(float_to_bf16(random_normal(params.random_stream, element)));
  }
}

struct StoreParams {
  const float* values;
  int32_t first_row;
  TargetRows target;
  int32_t interleaved_head_dim;
};

//   source  0 1 2 3 4 5 ... of a head      rows i, i + head_dim / 2  <-  2 i, 2 i + 1
//   rows    0 2 4 ... | 1 3 5 ...
__device__ int64_t target_row(const StoreParams& params, int row) {
  const int head_dim = params.interleaved_head_dim;
  if (head_dim == 0) return int64_t{params.target.first_row} + row;
  const int within = row % head_dim;
  return int64_t{params.target.first_row} + row - within + within / 2 + within % 2 * (head_dim / 2);
}

__device__ float block_absmax(const float* row, int cols) {
  __shared__ float warp_largest[kThreads / 32];
  float largest = 0;
  for (int col = threadIdx.x; col < cols; col += kThreads) largest = fmaxf(largest, fabsf(row[col]));
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFu, largest, lanes));
  }
  if (threadIdx.x % 32 == 0) warp_largest[threadIdx.x / 32] = largest;
  __syncthreads();
  for (const float other : warp_largest) largest = fmaxf(largest, other);
  return largest;
}

__device__ void store_e4m3(const StoreParams& params, const float* row, int64_t target) {
  const TargetRows& matrix = params.target;
  const float largest = block_absmax(row, matrix.cols);
  const float scale = largest > 0 && isfinite(largest) ? __fdiv_rn(largest, kLargestE4m3) : 1.0f;
  if (threadIdx.x == 0) matrix.row_scales[target] = scale;
  uint8_t* stored = static_cast<uint8_t*>(matrix.data) + target * matrix.cols;
  for (int col = threadIdx.x; col < matrix.cols; col += kThreads) {
    stored[col] = encode_fp8(OCTAVO_KV_FP8_E4M3, __fdiv_rn(row[col], scale));
  }
}

// A block takes a row.
__global__ void __launch_bounds__(kThreads) store_kernel(StoreParams params) {
  const TargetRows& matrix = params.target;
  const float* row = params.values + int64_t{blockIdx.x} * matrix.cols;
  const int64_t target = target_row(params, params.first_row + static_cast<int>(blockIdx.x));
  if (matrix.dtype == OCTAVO_F8_E4M3) return store_e4m3(params, row, target);
  uint16_t* stored = static_cast<uint16_t*>(matrix.data) + target * matrix.cols;
  for (int col = threadIdx.x; col < matrix.cols; col += kThreads) {
    stored[col] = matrix.dtype == OCTAVO_BF16 ? encode_bf16(row[col]) : encode_f16(row[col]);
  }
}

}  // namespace

void expand_rows(const FileRows& rows, float* values, GpuStream stream) {
  const int index = find_format(rows.dtype);
  ExpandParams params = {rows, {}, values};
  const int64_t count = int64_t{rows.num_rows} * rows.cols;
  if (plain_bytes(rows.dtype) > 0) {
    return gpu_launch(expand_plain_kernel, num_blocks(count), kThreads, 0, stream, false, params);
  }
  params.format = kFormats[index];
  gpu_launch(expand_block_kernel, num_blocks(count / params.format.block_cols), kThreads, 0, stream, false, params);
}

void make_up_elements(uint64_t random_stream, int64_t first_element, int64_t num_elements, float* values,
                      GpuStream stream) {
  const MakeUpParams params = {random_stream, first_element, num_elements, values};
  gpu_launch(make_up_kernel, num_blocks(num_elements), kThreads, 0, stream, false, params);
}

void store_rows(const float* values, int32_t first_row, int32_t num_rows, const TargetRows& target,
                int32_t interleaved_head_dim, GpuStream stream) {
  const StoreParams params = {values, first_row, target, interleaved_head_dim};
  gpu_launch(store_kernel, num_rows, kThreads, 0, stream, false, params);
}

}  // namespace octavo
