// What happens to a finished sum: scales, bias, gate and the store. A warp finishes a unit at a time, 16 lines of a tile x
// 8 tokens as MMA leaves them (lane = 4 g + t): {line g: tokens 2t, 2t + 1; line g + 8: the same tokens}.
#pragma once

#include "arch/ptx.cuh"
#include "gemm/activation.cuh"
#include "gemm/stream_matmul.h"
#include "gemm/stream_tile.h"

namespace octavo {

// This lane's two rows of W. Gates: the second is the up row of the first.
struct StreamRows {
  int row[2];
  float scale[2];
  float bias[2];
  bool valid[2];
};

// What a unit needs beside its sums, loaded before they are there.
struct StreamUnit {
  StreamRows rows;
  int column;  // first token
  float x_scale[2];
  float before[2][2];  // of y, kAdd: [row][token]
};

__device__ inline StreamRows load_stream_rows(const StreamParams& p, int tile, int warp, int lane) {
  StreamRows rows;
  const int g = lane >> 2;
  const int half = p.rows / 2;
  const bool gate = p.plan.gate != 0;
  rows.row[0] = gate ? tile * (kStreamRows / 2) + warp * 8 + g : tile * kStreamRows + warp * 16 + g;
  rows.row[1] = rows.row[0] + (gate ? half : 8);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    rows.valid[i] = gate ? rows.row[0] < half : rows.row[i] < p.rows;
    rows.scale[i] = p.row_scales != nullptr && rows.valid[i] ? p.row_scales[rows.row[i]] : 1.0f;
    rows.bias[i] = p.bias != nullptr && rows.valid[i] ? p.bias[rows.row[i]] : 0.0f;
  }
  return rows;
}

__device__ inline StreamUnit load_unit(const StreamParams& p, const StreamRows& rows, int column, int lane) {
  StreamUnit unit;
  unit.rows = rows;
  unit.column = column;
  const int token = column + 2 * (lane & 3);
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    unit.x_scale[e] = p.x_scales != nullptr && token + e < p.m ? p.x_scales[token + e] : 1.0f;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const bool needed = p.epilogue == MatmulEpilogue::kAdd && rows.valid[i] && token + e < p.m;
      unit.before[i][e] = needed ? static_cast<const float*>(p.y)[(token + e) * p.y_stride + rows.row[i]] : 0.0f;
    }
  }
  return unit;
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

// Two tokens of one row a lane become two rows of one token, turned by the warp, in a 16-bit type.
__device__ inline void store_turned(const StreamParams& p, int column, int first_row, int limit, const float (&value)[2],
                                    int lane) {
  const uint32_t pair =
      p.y_dtype == OCTAVO_BF16 ? pack_bf16x2(value[0], value[1]) : pack_f16x2(value[0], value[1]);
  store_pair(p, column + (lane >> 2), first_row + 2 * (lane & 3), limit, movmatrix_trans(pair));
}

// All lanes of the warp call it.
__device__ inline void finish_unit(const StreamParams& p, const StreamUnit& unit, float4 sums, int lane) {
  const StreamRows& rows = unit.rows;
  const bool gate = p.plan.gate != 0;
  float value[2][2] = {{sums.x, sums.y}, {sums.z, sums.w}};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      value[i][e] = value[i][e] * (rows.scale[i] * unit.x_scale[e]) + rows.bias[i] + unit.before[i][e];
    }
  }
  if (gate) {
#pragma unroll
    for (int e = 0; e < 2; ++e) value[0][e] = activate(value[0][e], p.epilogue) * value[1][e];
  }
  const int count = gate ? 1 : 2;  // rows of y
  const int limit = gate ? p.rows / 2 : p.rows;
  if (p.y_dtype != OCTAVO_F32) {
    store_turned(p, unit.column, rows.row[0] - (lane >> 2), limit, value[0], lane);
    if (count == 2) store_turned(p, unit.column, rows.row[1] - (lane >> 2), limit, value[1], lane);
    return;
  }
  const int token = unit.column + 2 * (lane & 3);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      if (i < count && rows.valid[i] && token + e < p.m) {
        static_cast<float*>(p.y)[(token + e) * p.y_stride + rows.row[i]] = value[i][e];
      }
    }
  }
}

}  // namespace octavo
