// The stored KV formats as the attention kernels see them: one traits type each. A format says how many bytes an
// element takes, in which 16-bit type the matrix products run, and how 16-byte chunks read by ldmatrix become MMA
// fragments. A new format is a new traits type; the kernels do not change. kWeightParts: terms that a softmax weight is
// split into. kRowScales: an f32 lies with each token's codes; kHasNan: codes may be NaN; kMayRotate: so may K, V (and
// thus q and the output) be, by rotations (octavo.h, octavo_kv_dtype).
//
// Fragments: lane = 4 g + t. load = ldmatrix.x4 over {tokens 0-7, 8-15} x {chunk 2p, chunk 2p+1} of one granule, plain
// for K and transposed for V. One chunk pair gives kSteps MMA steps of 16 dims each.
//
//   format | K: contraction slot -> dim of the step        | V: output row -> dim of the step
//   8 bit  | 2t, 2t+1 -> 4t, 4t+1; 2t+8, 2t+9 -> 4t+2, 4t+3 | g -> 2g, g+8 -> 2g+1
//   16 bit | identity                                      | identity
//
// The 8-bit maps cost nothing: Q is loaded with the same contraction map (query_dims) and output rows are put right
// where they are written (output_dims). tests/cuda/lane_maps_test.cpp emulates all of this on the CPU.
#pragma once

#include <cstdint>

#if !defined(OCTAVO_EMULATE_WARP)  // tests put a warp on the CPU in place of the instructions
#include "arch/ptx.cuh"
#endif
#include "kv/granule_address.h"
#include "octavo.h"

namespace octavo {

// Dims, within a step of 16, of the two query elements in fragment register b0 (first) or b1 (second) of lane t.
struct DimPair {
  int first;
  int second;
};

// Where an element of Q goes among the B fragments of an MMA step: lane 4 g + t has query g's in register b0 or b1.
struct QuerySlot {
  int step;
  int t;
  int half;   // 0: b0, 1: b1
  int upper;  // 0: the lower 16 bits
};

// What the 8-bit formats share. Derived::widen turns 4 stored bytes into two registers of two f16.
template <class Derived>
struct Stored8 {
  static constexpr int kBytes = 1;
  static constexpr int kSteps = 2;
  static constexpr bool kRowScales = false;
  static constexpr bool kHasNan = true;
  static constexpr bool kMayRotate = false;

  OCTAVO_HOST_DEVICE static constexpr DimPair query_dims(int t, int half) {
    return {4 * t + 2 * half, 4 * t + 2 * half + 1};
  }
  // The same map, from the dim.
  OCTAVO_HOST_DEVICE static constexpr QuerySlot query_slot(int dim) {
    return {dim >> 4, (dim >> 2) & 3, (dim >> 1) & 1, dim & 1};
  }
  OCTAVO_HOST_DEVICE static constexpr DimPair output_dims(int g) { return {2 * g, 2 * g + 1}; }

  __device__ static void key_fragment(const uint32_t (&r)[4], int step, uint32_t (&a)[4]) {
    Derived::widen(r[2 * step], a[0], a[2]);
    Derived::widen(r[2 * step + 1], a[1], a[3]);
  }

  // Transposed bytes {dim 2g, 2g+1 of token 2t; the same of token 2t+1} are grouped by dim first.
  __device__ static void value_fragment(const uint32_t (&r)[4], int step, uint32_t (&a)[4]) {
    Derived::widen(__byte_perm(r[2 * step], 0, 0x3120), a[0], a[1]);
    Derived::widen(__byte_perm(r[2 * step + 1], 0, 0x3120), a[2], a[3]);
  }

  static constexpr int kWeightParts = 1;
  __device__ static uint32_t pack(float low, float high) { return pack_f16x2(low, high); }
  __device__ static void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { mma_f16(d, a, b0, b1); }
};

struct StoredE4m3 : Stored8<StoredE4m3> {
  __device__ static void widen(uint32_t four, uint32_t& low, uint32_t& high) { e4m3x4_to_f16x4(four, low, high); }
};

struct StoredE5m2 : Stored8<StoredE5m2> {
  __device__ static void widen(uint32_t four, uint32_t& low, uint32_t& high) { e5m2x4_to_f16x4(four, low, high); }
};

struct StoredE4m3Token : StoredE4m3 {
  static constexpr bool kRowScales = true;
};

struct StoredInt8 : Stored8<StoredInt8> {
  static constexpr bool kRowScales = true;
  static constexpr bool kHasNan = false;
  static constexpr bool kMayRotate = true;

  __device__ static void widen(uint32_t four, uint32_t& low, uint32_t& high) {
    low = int8x2_to_f16x2(four, 0x4140);
    high = int8x2_to_f16x2(four, 0x4342);
  }

  // As in Stored8, the grouping done by the conversion.
  __device__ static void value_fragment(const uint32_t (&r)[4], int step, uint32_t (&a)[4]) {
    a[0] = int8x2_to_f16x2(r[2 * step], 0x4240);
    a[1] = int8x2_to_f16x2(r[2 * step], 0x4341);
    a[2] = int8x2_to_f16x2(r[2 * step + 1], 0x4240);
    a[3] = int8x2_to_f16x2(r[2 * step + 1], 0x4341);
  }
};

// What the 16-bit formats share: fragments as they are stored.
struct Stored16 {
  static constexpr int kBytes = 2;
  static constexpr int kSteps = 1;
  static constexpr bool kRowScales = false;
  static constexpr bool kHasNan = true;
  static constexpr bool kMayRotate = false;

  OCTAVO_HOST_DEVICE static constexpr DimPair query_dims(int t, int half) {
    return {2 * t + 8 * half, 2 * t + 8 * half + 1};
  }
  OCTAVO_HOST_DEVICE static constexpr DimPair output_dims(int g) { return {g, g + 8}; }

  __device__ static void key_fragment(const uint32_t (&r)[4], int, uint32_t (&a)[4]) {
    for (int i = 0; i < 4; ++i) a[i] = r[i];
  }

  // Registers come as (tokens, chunk) = (0-7, lower), (8-15, lower), (0-7, upper), (8-15, upper).
  __device__ static void value_fragment(const uint32_t (&r)[4], int, uint32_t (&a)[4]) {
    a[0] = r[0];
    a[1] = r[2];
    a[2] = r[1];
    a[3] = r[3];
  }
};

struct StoredF16 : Stored16 {
  static constexpr int kWeightParts = 1;
  __device__ static uint32_t pack(float low, float high) { return pack_f16x2(low, high); }
  __device__ static void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { mma_f16(d, a, b0, b1); }
};

// bfloat16 has 8 bits of significand, too few for the softmax's weights: they are split into two terms, and the second
// product runs twice.
struct StoredBf16 : Stored16 {
  static constexpr int kWeightParts = 2;
  __device__ static uint32_t pack(float low, float high) { return pack_bf16x2(low, high); }
  __device__ static void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    mma_bf16(d, a, b0, b1);
  }
};

}  // namespace octavo
