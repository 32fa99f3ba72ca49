#include "gemm/stream_matmul.h"

#include <algorithm>

#include "arch/tensor_map.h"
#include "arch/wgmma.cuh"
#include "gemm/stream_launcher.h"
#include "gemm/stream_tile.h"

namespace octavo {
namespace {

constexpr int kEnoughBlocks = 96;  // to keep the memory busy

__device__ int built_with_warpgroup_mma = OCTAVO_WGMMA;

// Whether the code that runs on this card is that of 9.0a: the plain 9.0 has no warpgroup MMA.
bool is_hopper() {
  static const bool built = [] {
    int value = 0;
    OCTAVO_GPU_CHECK(cudaMemcpyFromSymbol(&value, built_with_warpgroup_mma, sizeof value));
    return value != 0;
  }();
  return built && gpu_device().compute_major == 9 && gpu_device().compute_minor == 0;
}

StreamLauncher find_launcher(int32_t weight_dtype, int32_t x_dtype, int columns) {
  const bool hopper = is_hopper();
  if (weight_dtype == OCTAVO_BF16) return find_stream_bf16(columns, hopper);
  if (weight_dtype == OCTAVO_F16) return find_stream_f16(columns, hopper);
  if (x_dtype == OCTAVO_BF16) return find_stream_e4m3_bf16(columns, hopper);
  if (x_dtype == OCTAVO_F16) return find_stream_e4m3_f16(columns, hopper);
  return find_stream_e4m3(columns, hopper);
}

int columns_for(int32_t m) {
  int columns = 8;
  while (columns < m) columns *= 2;
  return columns;
}

CUtensorMapDataType map_type(int32_t dtype) {
  if (dtype == OCTAVO_BF16) return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  if (dtype == OCTAVO_F16) return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  return CU_TENSOR_MAP_DATA_TYPE_UINT8;
}

// W as a tile's lines.
CUtensorMap map_weights(const DeviceMatrix& w, const StreamPlan& plan) {
  const uint64_t rows = static_cast<uint64_t>(w.rows);
  const uint64_t cols = static_cast<uint64_t>(w.cols);
  const uint64_t row_bytes = cols * stream_element_bytes(w.dtype);
  const uint32_t span = static_cast<uint32_t>(plan.step_cols);
  if (plan.gate == 0) {
    return make_tensor_map({map_type(w.dtype), w.data, 2, {cols, rows}, {row_bytes}, {span, kStreamRows}});
  }
  return make_tensor_map({map_type(w.dtype),
                          w.data,
                          4,
                          {cols, 8, 2, rows / 16},
                          {row_bytes, row_bytes * (rows / 2), row_bytes * 8},
                          {span, 8, 2, kStreamRows / 16}});
}

CUtensorMap map_tokens(const StreamParams& p, int32_t dtype, int columns) {
  const uint64_t bytes = static_cast<uint64_t>(stream_element_bytes(dtype));
  return make_tensor_map({map_type(dtype),
                          p.x,
                          2,
                          {static_cast<uint64_t>(p.cols), static_cast<uint64_t>(p.m)},
                          {static_cast<uint64_t>(p.x_stride) * bytes},
                          {static_cast<uint32_t>(128 / bytes), static_cast<uint32_t>(columns)}});
}

}  // namespace

// Of the splits, the smallest with the best product of: the share of time in which all blocks work, and how nearly there
// are enough blocks.
StreamPlan plan_stream(const DeviceMatrix& w, MatmulEpilogue epilogue) {
  StreamPlan plan = {};
  plan.step_cols = kStreamStepBytes / stream_element_bytes(w.dtype);
  plan.gate = is_gate(epilogue) ? 1 : 0;
  plan.num_tiles = (w.rows + kStreamRows - 1) / kStreamRows;
  plan.tile_steps = (w.cols + plan.step_cols - 1) / plan.step_cols;
  double best = 0;
  for (int split = 1; split <= std::min(kStreamMaxSplit, plan.tile_steps); split *= 2) {
    const int most = gpu_device().num_sms / split;
    if (most == 0) break;
    const int rounds = (plan.num_tiles + most - 1) / most;
    const int groups = (plan.num_tiles + rounds - 1) / rounds;
    const double busy = static_cast<double>(plan.num_tiles) / (groups * rounds);
    const double score = busy * std::min(1.0, static_cast<double>(groups * split) / kEnoughBlocks);
    if (split == 1 || score > best + 0.02) {
      best = score;
      plan.split = split;
      plan.num_groups = groups;
    }
  }
  return plan;
}

bool stream_takes_e4m3() { return is_hopper(); }

int32_t stream_max_columns() { return is_hopper() ? 128 : 64; }

size_t stream_partial_bytes(int32_t columns) {
  return size_t{2} * gpu_device().num_sms * stream_exchange_bytes(columns_for(columns));
}

size_t stream_counter_bytes() { return size_t{2} * gpu_device().num_sms * sizeof(int32_t); }

void prepare_stream(int32_t weight_dtype, int32_t x_dtype) {
  for (int columns = 8; columns <= stream_max_columns(); columns *= 2) {
    find_launcher(weight_dtype, x_dtype, columns)(nullptr, nullptr, false);
  }
}

void stream_matmul(const MatmulArgs& args, int32_t x_dtype, float* partials, int32_t* counters, GpuStream stream,
                   bool overlap) {
  const DeviceMatrix& w = *args.w;
  StreamParams params = {};
  params.plan = plan_stream(w, args.epilogue);
  params.w = w.data;
  params.x_stride = args.x_stride;
  params.row_scales = w.row_scales;
  params.bias = args.bias;
  params.y_stride = args.y_stride;
  params.partials = partials;
  params.counters = counters;
  params.rows = w.rows;
  params.cols = w.cols;
  params.y_dtype = args.y_dtype;
  params.epilogue = args.epilogue;
  if (is_hopper()) params.w_map = map_weights(w, params.plan);
  const int32_t most = stream_max_columns();
  for (int32_t first = 0; first < args.m; first += most) {
    params.m = std::min(args.m - first, most);
    params.x = static_cast<const uint8_t*>(args.x) + first * args.x_stride * stream_element_bytes(x_dtype);
    params.x_scales = args.x_scales == nullptr ? nullptr : args.x_scales + first;
    params.y = static_cast<uint8_t*>(args.y) + first * args.y_stride * (args.y_dtype == OCTAVO_F32 ? 4 : 2);
    const int columns = columns_for(params.m);
    if (is_hopper()) params.x_map = map_tokens(params, x_dtype, columns);
    find_launcher(w.dtype, x_dtype, columns)(&params, stream, overlap);
  }
}

}  // namespace octavo
