// Paged attention on the GPU: what the kernel is given, and its launch. One kernel family serves decode, several new
// tokens a sequence and prefill: a plan row is any group of consecutive queries of a sequence, at most 32 columns
// (query tokens x heads of a group) wide.
#pragma once

#include <cstdint>

#include "arch/gpu.h"
#include "attn/attention_params.h"
#include "attn/plan.h"

namespace octavo {

constexpr uint32_t kEmptyWord = ~0u;

struct DecodeParams : AttentionParams {
  int32_t is_rotated;  // K and V are stored so; q is rotated as it is read, the output turned back
  const PlanRow* rows;
  const PlanRange* ranges;
  const int32_t* first_pages;  // of the plan
  int32_t early;      // 1: keys older than this step were not written by the kernel just before: read them early
  float* slots;       // [num_ranges] partial results on their way to another block; all kEmptyWord between launches
};

// How the kernel cuts the work, chosen from the shape alone.
struct DecodeShape {
  int step_tokens;      // keys a warp takes at a time
  int tile_tokens;      // query tokens of a plan row at most
  int num_ranges;       // blocks of the grid
  int64_t slot_floats;  // of one partial result
  int item_cost;        // what an item costs besides its keys, in steps
  BlockWalk walk;
};

// Throws Error(OCTAVO_UNSUPPORTED) naming what has no kernel: format, head_dim, group.
DecodeShape decode_shape(int kv_dtype, int head_dim, int group, int max_query_len);

// Enqueues the attention kernel. params.rows and params.ranges must come from a plan made for decode_shape of the same
// arguments.
void run_decode(const DecodeParams& params, int kv_dtype, int head_dim, int max_query_len, GpuStream stream,
                bool overlap);

}  // namespace octavo
