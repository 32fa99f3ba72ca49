// What attention.cpp (planning) and the kernels (one file per instruction set, from attention_kernel.inl) share.
#pragma once

#include <cstdint>

#include "arch/inline.h"
#include "attn/attention.h"
#include "kv/granule.h"
#include "kv/quantize.h"
#include "kv/rotation.h"

namespace octavo {

// Keys are cut into splits at fixed places, counted from key 0, and a split into tiles: so the arithmetic of a query
// does not depend on who shares its step or how it was cut into chunks.
constexpr int64_t kSplitKeys = 512;
constexpr int32_t kMaxRows = 48;  // (query, q head) pairs of a unit; a group of more q heads is cut into several units

// A tile's K or V in f32 fills at most 32 KB.
OCTAVO_INLINE int32_t tile_keys(int32_t head_dim) { return head_dim <= 64 ? 64 : 32; }

// head_dim rounded up to whole vectors of every instruction set.
OCTAVO_INLINE int32_t padded_dim(int32_t head_dim) { return (head_dim + 15) / 16 * 16; }

// Some neighbouring queries of one sequence with some q heads of one kv head: rows that share every K and V they read.
// Row r is query r / num_heads, q head first_head + r % num_heads.
struct AttentionUnit {
  int32_t seq;
  int32_t kv_head;
  int32_t first_head;
  int32_t num_heads;
  int32_t num_queries;
  int64_t first_token;     // row of q and out of the first query
  int64_t first_position;  // of the first query
  int64_t first_key;       // the first key that any of its queries sees

  OCTAVO_INLINE int32_t num_rows() const { return num_queries * num_heads; }
  OCTAVO_INLINE int64_t last_key() const { return first_position + num_queries - 1; }
  OCTAVO_INLINE int64_t first_split() const { return first_key / kSplitKeys; }
  OCTAVO_INLINE int64_t num_splits() const { return last_key() / kSplitKeys + 1 - first_split(); }
};

// Softmax over a range of keys, before division: out row = acc / sum, with exp2(logit - max) as weights.
struct AttentionPartial {
  float* max;  // [rows] of the base-2 logits; -infinity where no key was visible
  float* sum;  // [rows]
  float* acc;  // [rows][padded_dim]

  // Floats of memory for one, and one in such memory; both keep acc aligned to 64 bytes.
  OCTAVO_INLINE static int64_t floats(int64_t rows, int32_t head_dim) {
    return (rows * (padded_dim(head_dim) + 2) + 15) / 16 * 16;
  }
  OCTAVO_INLINE static AttentionPartial at(float* memory, int64_t rows, int32_t head_dim) {
    float* max = memory + rows * padded_dim(head_dim);
    return {max, max + rows, memory};
  }
};

// A thread's scratch memory.
struct AttentionWorkspace {
  static constexpr int64_t kMaxLanes = 16;

  float* tile;     // [granule][padded_dim][16] of K, then [tile keys][padded_dim] of V; also used for float16
  float* q;        // [kMaxRows][head_dim]
  float* scores;   // [kMaxRows][tile keys]
  float* sums;     // [kMaxRows][lanes]: the softmax denominators, not yet added up
  float* rescale;  // [kMaxRows]
  AttentionPartial split;
  AttentionPartial merged;

  OCTAVO_INLINE AttentionWorkspace(float* memory, int32_t head_dim) {
    tile = memory;
    q = tile + int64_t{padded_dim(head_dim)} * tile_keys(head_dim);
    scores = q + int64_t{kMaxRows} * head_dim;
    sums = scores + int64_t{kMaxRows} * tile_keys(head_dim);
    rescale = sums + kMaxRows * kMaxLanes;
    split = AttentionPartial::at(rescale + kMaxRows, kMaxRows, head_dim);
    merged = AttentionPartial::at(split.acc + AttentionPartial::floats(kMaxRows, head_dim), kMaxRows, head_dim);
  }

  OCTAVO_INLINE static int64_t floats(int32_t head_dim) {
    return int64_t{padded_dim(head_dim) + kMaxRows} * tile_keys(head_dim) + int64_t{kMaxRows} * head_dim +
           kMaxRows * (kMaxLanes + 1) + 2 * AttentionPartial::floats(kMaxRows, head_dim);
  }
};

struct AttentionKernel {
  // Computes a unit and writes its rows of out (and lse).
  void (*whole)(const AttentionArgs& args, const AttentionUnit& unit, float* scratch);
  // Computes one split of a unit.
  void (*split)(const AttentionArgs& args, const AttentionUnit& unit, int64_t split, AttentionPartial partial,
                float* scratch);
  // Merges a unit's splits, one after another in memory, and writes its rows of out (and lse).
  void (*merge)(const AttentionArgs& args, const AttentionUnit& unit, float* partials, float* scratch);
};

extern const AttentionKernel kAttentionPortable;
#if defined(__x86_64__)
extern const AttentionKernel kAttentionAvx2;
extern const AttentionKernel kAttentionAvx512;
#endif

}  // namespace octavo
