// What the attention kernel's parts share: its constants, quads of Q and of the output, a warp's running result.
#pragma once

#include <cfloat>

#include "arch/ptx.cuh"
#include "attn/decode.h"
#include "attn/decode_tile.h"
#include "kv/stored.cuh"

namespace octavo {

constexpr float kShift = 7.0f;
constexpr float kSlack = 8.0f;  // 2^(kShift + kSlack) < 65504
constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;
constexpr float kNegInf = -INFINITY;
constexpr uint32_t kLeastUnit = 0x00800000u;  // 2^-126, as its bits
constexpr uint32_t kMostUnit = 0x7E800000u;   // 2^126

// Four adjacent elements of Q as they lie in memory (16-bit types: in x and y).
__device__ inline uint4 read_quad(const void* q, int dtype, int64_t index) {
  if (dtype == OCTAVO_F32) return *reinterpret_cast<const uint4*>(static_cast<const float*>(q) + index);
  const uint2 raw = *reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(q) + index);
  return make_uint4(raw.x, raw.y, 0, 0);
}

__device__ inline float2 widen_pair(uint32_t pair, bool is_bf16) {
  if (is_bf16) return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000u));
  return __half22float2(*reinterpret_cast<const __half2*>(&pair));
}

__device__ inline void widen_quad(uint4 raw, int dtype, float (&x)[4]) {
  if (dtype == OCTAVO_F32) {
    x[0] = __uint_as_float(raw.x), x[1] = __uint_as_float(raw.y);
    x[2] = __uint_as_float(raw.z), x[3] = __uint_as_float(raw.w);
    return;
  }
  const float2 low = widen_pair(raw.x, dtype == OCTAVO_BF16);
  const float2 high = widen_pair(raw.y, dtype == OCTAVO_BF16);
  x[0] = low.x, x[1] = low.y, x[2] = high.x, x[3] = high.y;
}

// Beyond f16's range only poison is found; NaN stays NaN.
__device__ inline float clamp_to_f16(float x) { return fabsf(x) > 65504.0f ? copysignf(65504.0f, x) : x; }

__device__ inline float max_over_keys(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 4));
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 8));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 16));
}

// One warp's running result for one item.
template <class Tile>
struct Accumulator {
  float o[Tile::kDimSteps][Tile::kTiles][4];  // O^T fragments
  float m[Tile::kTiles][2];                   // columns 2t, 2t+1 of each tile, base 2
  float l[Tile::kTiles][2];                   // this lane's keys only
  uint32_t unit[Tile::kUnits];                // bits of the powers of two that o is counted in, where V has scales

  __device__ void reset() {
#pragma unroll
    for (int u = 0; u < Tile::kUnits; ++u) unit[u] = kLeastUnit;
#pragma unroll
    for (int n = 0; n < Tile::kTiles; ++n) {
      for (int e = 0; e < 2; ++e) m[n][e] = kNegInf, l[n][e] = 0.0f;
#pragma unroll
      for (int d = 0; d < Tile::kDimSteps; ++d) {
        for (int i = 0; i < 4; ++i) o[d][n][i] = 0.0f;
      }
    }
  }
};

// What the arithmetic needs to know of an item.
struct ItemView {
  PlanRow row;
  int head;
  float score_scale;  // multiplies q.k: softmax scale x K scale (x log2 e without soft-cap)
  float value_scale;
};

// H x of a column's dims as quads lie over lanes.
template <int kHeadDim, int kParts>
__device__ inline void rotate_quads(float (&x)[kParts][4]) {
  constexpr int kBlock = rotation_block(kHeadDim);
  const auto turn = [](float& low, float& high) {
    const float sum = low + high;
    high = low - high;
    low = sum;
  };
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    turn(x[part][0], x[part][1]), turn(x[part][2], x[part][3]);
    turn(x[part][0], x[part][2]), turn(x[part][1], x[part][3]);
#pragma unroll
    for (int distance = 1; distance < kBlock / 4 / kParts; distance *= 2) {
      const float sign = (threadIdx.x & distance) != 0 ? -1.0f : 1.0f;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        x[part][i] = fmaf(x[part][i], sign, __shfl_xor_sync(~0u, x[part][i], distance));
      }
    }
  }
  const float norm = 1.0f / sqrtf(static_cast<float>(kBlock));
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (kParts == 2) turn(x[0][i], x[1][i]);
#pragma unroll
    for (int part = 0; part < kParts; ++part) x[part][i] *= norm;
  }
}

}  // namespace octavo
