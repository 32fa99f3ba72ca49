// The decoder's forward pass on a GPU: the kernels of one step, enqueued in order, from the packed step to the logits.
// The design is that of model/forward.h; which pieces a model has is read from its config and weights.
//
//   unpack -> embed + norm -> [ qkv -> norm, rope, append -> attention -> o_proj + residual -> norm
//                             -> gate, up + activation -> down + residual -> norm ] x layers -> head -> soft-cap
//
// The residual stream is f32 and products add to it in place; with a post norm (Gemma) the product is stored and the
// norm's kernel adds. Every kernel may start while its predecessor ends (programmatic dependent launch).
#pragma once

#include <cstdint>
#include <map>
#include <tuple>
#include <vector>

#include "arch/gpu_memory.h"
#include "attn/paged_attention.h"
#include "gemm/device_matmul.h"
#include "kv/append.h"
#include "model/device_kv_cache.h"
#include "model/device_scratch.h"
#include "model/step_buffer.h"

namespace octavo {

// A step as the host knows it. In a graph the counts are those it was captured for.
struct DeviceStep {
  int32_t num_seqs;
  int32_t num_tokens;
  int32_t num_rows;    // 0: it samples nothing
  int32_t num_scores;
  int32_t max_query_len;
  bool counts_kv;   // its K and V make KV scales or histograms
  KvGroups groups;  // all of its sequences
};

class DeviceForward {
 public:
  // All arguments outlive it. Allocates everything that steps need. Throws Error: OCTAVO_UNSUPPORTED for what no kernel
  // takes (kv_dtype float32, head_dim, widths), OCTAVO_OUT_OF_MEMORY.
  DeviceForward(const DeviceModel& model, const octavo_engine_config& config, const DeviceScratch& scratch,
                const DeviceKvCache& kv);

  // Enqueues the layers of a step whose packed form lies in scratch.packed.
  void run_layers(const DeviceStep& step, GpuStream stream);

  // Enqueues the logits after some of its tokens: one row of logits() each. tokens: their places in the step, on the
  // device, num_rows of them, at most max_samples.
  void compute_logits(const int32_t* tokens, int32_t num_rows, GpuStream stream);
  float* logits() const { return logits_; }               // [max_samples][logits_stride]
  int64_t logits_stride() const { return logits_stride_; }  // vocab_size, rounded up to 8

 private:
  // kv_index, sliding window and kv_dtype: a plan serves all layers that have them.
  using PlanKey = std::tuple<int32_t, int32_t, int32_t>;

  void prepare(const DeviceStep& step, GpuStream stream);
  void run_layer(const DeviceStep& step, int32_t index, GpuStream stream);
  void append(const KvGroup& group, int32_t index, GpuStream stream);
  void count_kv(const DeviceStep& step, int32_t index, GpuStream stream);
  void calculate_scales(const DeviceStep& step, int32_t index, GpuStream stream);
  void attend(const KvGroup& group, int32_t index, GpuStream stream);
  MatmulArgs of_normed(const DeviceMatrix& w, int32_t m) const;
  void add_to_hidden(MatmulArgs args, const float* bias, bool has_post_norm, GpuStream stream);
  void multiply(MatmulArgs args, GpuStream stream);
  void norm(const DeviceStep& step, const float* post_norm, const float* weight, const DeviceMatrix* next,
            GpuStream stream);
  PlanKey plan_key(int32_t kv_index, int32_t layer) const;
  void share_memory(size_t keys_bytes);
  AppendParams append_params(const KvGroup& group, int32_t index) const;

  const DeviceModel& model_;
  const octavo_engine_config config_;
  const DeviceScratch& scratch_;
  const DeviceKvCache& kv_;
  DeviceMatmul matmul_;
  std::map<PlanKey, AttentionWorkspace> attention_;
  // Memory of what is used up before the next line's is made; logits stay until the next step.
  //
  //   qkv's product    | workspace  | qkv                       |
  //   append           | q          | qkv                       |
  //   attention        | q | keys converted for prefill         |
  //   gate and up      | workspace  | both | activation         |
  //   head             | workspace  | logits                    |
  GpuMemory shared_;
  void* q_;           // [T][num_q_heads][head_dim] compute; after norm and RoPE. T: max_num_batched_tokens
  float* qkv_;        // [T][q heads | k heads | v heads][head_dim]; f32: K and V are rounded once, into their pages
  void* activation_;  // [T][intermediate_size] compute
  float* logits_;
  int64_t logits_stride_;
};

}  // namespace octavo
