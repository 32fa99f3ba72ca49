// The stored KV formats as the attention kernels see them: one traits type each. A format says how many bytes an
// element takes, in which 16-bit type the matrix products run, and how 16-byte chunks read by ldmatrix become MMA
// fragments. A new format is a new traits type; the kernels do not change. kWeightParts: terms that a softmax weight is
// split into. kKeyScales, kValueScales: scales that lie with the tokens; kHasNan: codes may be NaN; kMayRotate: K and V may
// be rotated, and thus q and the output must be (octavo.h, octavo_kv_dtype).
//
// Fragments: lane = 4 g + t. load = ldmatrix.x4 over {tokens 0-7, 8-15} x {chunk 2p, chunk 2p+1} of one granule, plain
// for K and transposed for V. One chunk pair gives kKeySteps and kValueSteps MMA steps of 16 dims each.
//
//   format | K: contraction slot -> dim of the step        | V: output row -> dim of the step
//   8 bit  | 2t, 2t+1 -> 4t, 4t+1; 2t+8, 2t+9 -> 4t+2, 4t+3 | g -> 2g, g+8 -> 2g+1
//   16 bit | identity                                      | identity
//   4 bit, step s of a chunk's two, dims of the chunk:
//          | 2t, 2t+1 -> 8t+2s, 8t+2s+4; 2t+8, 2t+9 -> one more | g -> 4g+2s, g+8 -> 4g+2s+1
//
// The maps cost nothing: Q is loaded with the same contraction map (query_slot, and query_dims where dims lie in pairs)
// and output rows are put right where they are written (output_dims). tests/cuda/host_tests.cpp emulates all of this on
// the CPU.
#pragma once

#include <cstdint>

#if !defined(OCTAVO_EMULATE_WARP)  // tests put a warp on the CPU in place of the instructions
#include "arch/ptx.cuh"
#endif
#include "kv/format.h"
#include "kv/granule_address.h"
#include "octavo.h"

namespace octavo {

// Two dims that one register, or one row and the next, hold.
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
  static constexpr int kKeyBits = 8;
  static constexpr int kValueBits = 8;
  static constexpr int kKeySteps = 2;
  static constexpr int kValueSteps = 2;
  static constexpr KvScales kKeyScales = KvScales::kNone;
  static constexpr KvScales kValueScales = KvScales::kNone;
  static constexpr bool kHasNan = true;
  static constexpr bool kMayRotate = false;

  // Dims, within a step of 16, of the two query elements in register b0 (half 0) or b1 of lane t.
  OCTAVO_HOST_DEVICE static constexpr DimPair query_dims(int t, int half) {
    return {4 * t + 2 * half, 4 * t + 2 * half + 1};
  }
  // The same map, from the dim.
  OCTAVO_HOST_DEVICE static constexpr QuerySlot query_slot(int dim) {
    return {dim >> 4, (dim >> 2) & 3, (dim >> 1) & 1, dim & 1};
  }
  // Dims of rows g and g + 8 of an MMA step's output.
  OCTAVO_HOST_DEVICE static constexpr DimPair output_dims(int step, int g) {
    return {16 * step + 2 * g, 16 * step + 2 * g + 1};
  }

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
  static constexpr KvScales kKeyScales = KvScales::kRow;
  static constexpr KvScales kValueScales = KvScales::kRow;
};

struct StoredInt8 : Stored8<StoredInt8> {
  static constexpr KvScales kKeyScales = KvScales::kRow;
  static constexpr KvScales kValueScales = KvScales::kRow;
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

// K as StoredInt8. V: a chunk holds 32 dims that share a scale, and gives two steps.
struct StoredK8V4 : StoredInt8 {
  static constexpr int kValueBits = 4;
  static constexpr int kValueSteps = 4;
  static constexpr KvScales kValueScales = KvScales::kGroups;

  OCTAVO_HOST_DEVICE static constexpr DimPair output_dims(int step, int g) {
    const int first = (step >> 1) * 32 + 4 * g + 2 * (step & 1);
    return {first, first + 1};
  }

  // Transposed words {dims 4g .. 4g+3 of token 2t; the same of token 2t+1}: nibbles i and i + 4 are one dim's.
  __device__ static void value_fragment(const uint32_t (&r)[4], int step, uint32_t (&a)[4]) {
    const int chunk = step >> 1;
    const int nibble = 2 * (step & 1);
    a[0] = int4_pair_to_f16x2(r[2 * chunk], nibble);
    a[1] = int4_pair_to_f16x2(r[2 * chunk], nibble + 1);
    a[2] = int4_pair_to_f16x2(r[2 * chunk + 1], nibble);
    a[3] = int4_pair_to_f16x2(r[2 * chunk + 1], nibble + 1);
  }
};

// K's words hold dims 8t .. 8t+7 of a chunk.
struct StoredInt4 : StoredK8V4 {
  static constexpr int kKeyBits = 4;
  static constexpr int kKeySteps = 4;
  static constexpr KvScales kKeyScales = KvScales::kGroups;

  OCTAVO_HOST_DEVICE static constexpr QuerySlot query_slot(int dim) {
    const int nibble = dim & 3;
    return {(dim >> 5) * 2 + (nibble >> 1), (dim >> 3) & 3, nibble & 1, (dim >> 2) & 1};
  }

  __device__ static void key_fragment(const uint32_t (&r)[4], int step, uint32_t (&a)[4]) {
    const int chunk = step >> 1;
    const int nibble = 2 * (step & 1);
    a[0] = int4_pair_to_f16x2(r[2 * chunk], nibble);
    a[1] = int4_pair_to_f16x2(r[2 * chunk + 1], nibble);
    a[2] = int4_pair_to_f16x2(r[2 * chunk], nibble + 1);
    a[3] = int4_pair_to_f16x2(r[2 * chunk + 1], nibble + 1);
  }
};

// What the 16-bit formats share: fragments as they are stored.
struct Stored16 {
  static constexpr int kKeyBits = 16;
  static constexpr int kValueBits = 16;
  static constexpr int kKeySteps = 1;
  static constexpr int kValueSteps = 1;
  static constexpr KvScales kKeyScales = KvScales::kNone;
  static constexpr KvScales kValueScales = KvScales::kNone;
  static constexpr bool kHasNan = true;
  static constexpr bool kMayRotate = false;

  OCTAVO_HOST_DEVICE static constexpr DimPair query_dims(int t, int half) {
    return {2 * t + 8 * half, 2 * t + 8 * half + 1};
  }
  OCTAVO_HOST_DEVICE static constexpr QuerySlot query_slot(int dim) {
    return {dim >> 4, (dim >> 1) & 3, (dim >> 3) & 1, dim & 1};
  }
  OCTAVO_HOST_DEVICE static constexpr DimPair output_dims(int step, int g) {
    return {16 * step + g, 16 * step + g + 8};
  }

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
