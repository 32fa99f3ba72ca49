// Paged attention on the GPU: what the kernel is given, and its launch. One kernel family serves decode, several new
// tokens a sequence and prefill: a plan row is any group of consecutive queries of a sequence, at most 32 columns
// (query tokens x heads of a group) wide.
#pragma once

#include <cstdint>

#include "arch/gpu.h"
#include "attn/plan.h"
#include "kv/granule_address.h"
#include "octavo.h"

namespace octavo {

struct DecodeParams {
  const uint8_t* pages;
  KvGeometry kv;
  int32_t num_pages;
  const void* q;              // [num_tokens][num_q_heads][head_dim] of q_dtype
  void* out;                  // the same shape and type
  float* lse;                 // [num_tokens][num_q_heads] or nullptr
  const int32_t* page_table;  // [num_seqs][max_pages]
  const float* scales;        // [2][num_kv_heads] or nullptr = 1
  const float* sinks;         // [num_q_heads] or nullptr
  int32_t q_dtype;            // OCTAVO_F32, OCTAVO_F16 or OCTAVO_BF16
  int32_t max_pages;
  int32_t num_q_heads;
  int32_t group;  // q heads of a kv head
  int32_t sliding_window;
  int32_t is_rotated;  // K and V are stored so; q is rotated as it is read, the output turned back
  float softmax_scale;
  float logit_softcap;
  const PlanRow* rows;
  const PlanRange* ranges;
  const int32_t* first_pages;  // of the plan
  int32_t early;      // 1: keys older than this step were not written by the kernel just before: read them early
  float* partials;    // [3 * num_ranges] slots of partial results
  int32_t* counters;  // [2 * kMaxRanges], zero between launches
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
