// Paged attention on the GPU with its workspace: plan, then attention.
#pragma once

#include <cstdint>

#include "arch/gpu.h"
#include "attn/decode.h"
#include "attn/plan.h"

namespace octavo {

// Device memory for the plan and the partial results. It grows to what a call needs; blocks that a captured graph may
// still use are kept until the end. The counters in it are zero between launches.
class AttentionWorkspace {
 public:
  AttentionWorkspace() = default;
  ~AttentionWorkspace();
  AttentionWorkspace(const AttentionWorkspace&) = delete;
  AttentionWorkspace& operator=(const AttentionWorkspace&) = delete;

  struct View {
    PlanRow* rows;
    PlanRange* ranges;
    int64_t* row_cost;
    int32_t* seq_row;
    int32_t* seq_token;
    int32_t* counters;
    float* partials;
    int32_t* first_pages;
    int32_t max_rows;
  };

  // Room for max_rows rows, max_seqs sequences and the shape's partial results. Allocates (not while a graph is
  // being captured) only when it has to grow.
  View reserve(int max_rows, int max_seqs, const DecodeShape& shape, GpuStream stream);

 private:
  struct Block;
  Block* block_ = nullptr;
};

struct PagedAttentionArgs {
  octavo_kv_shape shape;
  octavo_attention_config config;
  const uint8_t* pages;
  const void* q;
  const int32_t* query_len;  // nullptr: every sequence has one query token
  const int32_t* seq_len;
  const int32_t* page_table;
  const float* scales;
  const float* sinks;
  void* out;
  float* lse;
  int32_t max_query_len;
  bool early;  // with config.reuse_plan: the kernel just before wrote K and V of this step's tokens at most
};

// Knobs of the plan, for measurements.
struct PlanTuning {
  int item_cost = -1;  // -1: the shape's
  int min_range_steps = 4;
};

// Makes the plan (unless config.reuse_plan) and enqueues the attention.
void paged_attention(const PagedAttentionArgs& args, AttentionWorkspace& workspace, GpuStream stream, bool overlap,
                     const PlanTuning& tuning = {});

KvGeometry kv_geometry(const octavo_kv_shape& shape);

}  // namespace octavo
