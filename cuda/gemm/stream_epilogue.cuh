// What happens to a finished sum: scales, bias, gate and the store. A warp holds 16 rows x 8 tokens at a time, as MMA
// leaves them (lane = 4 g + t): {row g: tokens 2t, 2t + 1; row g + 8: the same tokens}.
#pragma once

#include "arch/ptx.cuh"
#include "gemm/activation.cuh"
#include "gemm/stream_matmul.h"
#include "gemm/stream_tile.h"

namespace octavo {

struct StreamRowPair {
  int row[2];  // of W: this lane's two
  float scale[2];
  float bias[2];
  bool valid[2];
};

__device__ inline bool is_gate(const StreamParams& p) {
  return p.epilogue == MatmulEpilogue::kSiluGate || p.epilogue == MatmulEpilogue::kGeluGate;
}

// Gates: rows of a tile alternate, 8 of gate and the 8 of up that belong to them, so a lane's second row is the up row of
// its first.
__device__ inline StreamRowPair stream_rows(const StreamParams& p, int tile, int warp, int lane) {
  StreamRowPair rows;
  const int g = lane >> 2;
  const int half = p.rows / 2;
  rows.row[0] = is_gate(p) ? tile * (kStreamRows / 2) + warp * 8 + g : tile * kStreamRows + warp * 16 + g;
  rows.row[1] = rows.row[0] + (is_gate(p) ? half : 8);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    rows.valid[i] = is_gate(p) ? rows.row[0] < half : rows.row[i] < p.rows;
    rows.scale[i] = p.row_scales != nullptr && rows.valid[i] ? p.row_scales[rows.row[i]] : 1.0f;
    rows.bias[i] = p.bias != nullptr && rows.valid[i] ? p.bias[rows.row[i]] : 0.0f;
  }
  return rows;
}

// Stores rows (row, row + 1) of one token in a 16-bit type; outside of limit nothing.
__device__ inline void store_pair(const StreamParams& p, int token, int row, int limit, uint32_t pair) {
  if (token >= p.m || row >= limit) return;
  uint16_t* to = static_cast<uint16_t*>(p.y) + token * p.y_stride + row;
  if (row + 1 < limit)
    *reinterpret_cast<uint32_t*>(to) = pair;
  else
    *to = static_cast<uint16_t>(pair);
}

__device__ inline uint32_t pack_output(const StreamParams& p, float low, float high) {
  return p.y_dtype == OCTAVO_BF16 ? pack_bf16x2(low, high) : pack_f16x2(low, high);
}

// Two tokens of one row each a lane become two rows of one token: `pair` in 16 bits, turned by the warp.
__device__ inline void store_turned(const StreamParams& p, int column, int first_row, int limit, uint32_t pair,
                                    int lane) {
  store_pair(p, column + (lane >> 2), first_row + 2 * (lane & 3), limit, movmatrix_trans(pair));
}

// Tokens column .. column + 7 of a warp's rows. All lanes of the warp call it.
__device__ inline void finish_sums(const StreamParams& p, const StreamRowPair& rows, int column, float4 sums,
                                   int lane) {
  const int g = lane >> 2;
  const int token = column + 2 * (lane & 3);
  float x_scale[2] = {1.0f, 1.0f};
  if (p.x_scales != nullptr) {
#pragma unroll
    for (int e = 0; e < 2; ++e) x_scale[e] = token + e < p.m ? p.x_scales[token + e] : 0.0f;
  }
  float value[2][2] = {{sums.x, sums.y}, {sums.z, sums.w}};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int e = 0; e < 2; ++e) value[i][e] = value[i][e] * (rows.scale[i] * x_scale[e]) + rows.bias[i];
  }
  int count = 2;  // rows of y
  int limit = p.rows;
  if (is_gate(p)) {
    for (int e = 0; e < 2; ++e) value[0][e] = activate(value[0][e], p.epilogue) * value[1][e];
    count = 1;
    limit = p.rows / 2;
  }
  if (p.y_dtype != OCTAVO_F32) {
    store_turned(p, column, rows.row[0] - g, limit, pack_output(p, value[0][0], value[0][1]), lane);
    if (count == 2) store_turned(p, column, rows.row[1] - g, limit, pack_output(p, value[1][0], value[1][1]), lane);
    return;
  }
  float* y = static_cast<float*>(p.y);
  const bool add = p.epilogue == MatmulEpilogue::kAdd;
  float before[2][2] = {};
  if (add) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        if (rows.valid[i] && token + e < p.m) before[i][e] = y[(token + e) * p.y_stride + rows.row[i]];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      if (i < count && rows.valid[i] && token + e < p.m) {
        y[(token + e) * p.y_stride + rows.row[i]] = before[i][e] + value[i][e];
      }
    }
  }
}

}  // namespace octavo
