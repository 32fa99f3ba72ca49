// Paged attention on the GPU with its workspace: plans, then attention: decode's kernel for sequences with few new
// tokens, prefill's for the others.
#pragma once

#include <cstdint>

#include "arch/gpu.h"
#include "attn/decode.h"
#include "attn/plan.h"
#include "attn/prefill.h"

namespace octavo {

// Device memory for the plan and the partial results. It grows to what a call needs; blocks that a captured graph may
// still use are kept until the end. Slots of partial results are empty between launches.
class AttentionWorkspace {
  static constexpr int kNumPrefillCounts = kPrefillLists + 1;
  static constexpr int kNumPrefillSums = kPrefillLists + 3;

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
    float* slots;
    int32_t* first_pages;
    int32_t max_rows;
    PrefillTile* tiles[kPrefillLists];
    ScratchSpan* spans;
    int32_t* prefill_counts;                 // num_tiles[kPrefillLists], num_spans
    int32_t* prefill_sums[kNumPrefillSums];  // [max_seqs + 1] each: prefix sums, the last flags
    int32_t max_tiles;

    int32_t* prefilled() const { return prefill_sums[kNumPrefillSums - 1]; }
  };

  struct Needs {
    int max_rows;      // of decode's plan
    int max_seqs;
    int max_tiles;     // of prefill's plan, 0: there is none
    DecodeShape shape;
  };

  // Room for the plans and the partial results. Allocates (not while a graph is being captured) only when it has to
  // grow.
  View reserve(const Needs& needs, GpuStream stream);

  // Gives prefill memory to convert keys into (prefill_scratch_bytes), 256 bytes aligned; it stays the caller's, and
  // workspaces of one stream may share it. What does not fit in is read from the pages by slower kernels. Without this,
  // calls allocate what they want, up to kDefaultScratchBytes.
  void use_scratch(void* memory, int64_t size_bytes);

  // The scratch, of at least wanted bytes unless that is more than there may be.
  uint8_t* scratch(int64_t wanted_bytes);
  int64_t scratch_bytes() const { return scratch_bytes_; }

 private:
  struct Block;
  Block* block_ = nullptr;
  uint8_t* scratch_ = nullptr;
  int64_t scratch_bytes_ = 0;
  bool owns_scratch_ = true;
};

constexpr int64_t kDefaultScratchBytes = int64_t{512} << 20;

// Bytes of scratch with which sequences of num_keys keys in all (each rounded up to 16) are prefilled at full speed;
// 0 where none is wanted.
int64_t prefill_scratch_bytes(const octavo_kv_shape& shape, int64_t num_keys);

// The largest calls that an engine makes.
struct AttentionLimits {
  octavo_kv_shape shape;
  int32_t num_q_heads;
  int32_t max_seqs;
  int32_t max_tokens;
};

// Allocates what paged_attention needs within the limits, but the scratch, so that no call does later.
void prepare_attention(const AttentionLimits& limits, AttentionWorkspace& workspace, GpuStream stream);

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
  bool early = false;  // with config.reuse_plan: the kernel just before wrote K and V of this step's tokens at most
  // What the host knows of a batch with prefill: the longest query_len among the sequences that are to be decoded; the
  // others are prefilled. 0: all are, -1: unknown.
  int32_t max_decode_len = -1;
  // Of the others, at most so many granules of keys and at least so many new tokens; 0: unknown.
  int32_t prompt_granules = 0;
  int32_t shortest_prompt = 0;
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
