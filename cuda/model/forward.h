// The decoder's forward pass, written once over the ops: embeddings, layers of attention and feed-forward, output head.
// Which pieces a model has (biases, q and k norms, sandwich norms, soft-caps, windows, sinks) is read from its config and
// from the tensors it brings.
#pragma once

#include "arch/thread_pool.h"
#include "model/attention_plans.h"
#include "model/kv_cache.h"
#include "model/kv_histograms.h"
#include "model/kv_stats.h"
#include "model/model.h"
#include "model/scratch.h"
#include "model/step_buffer.h"

namespace octavo {

// What a step works with; all outlive it.
struct ForwardContext {
  const Model& model;
  const StepView& step;  // checked
  KvGroups groups;  // of the step
  int32_t max_pages_per_seq;
  KvCache& kv;
  KvStats* kv_stats;            // nullptr: not counted
  KvHistograms* kv_histograms;  // nullptr: not counted
  Scratch& scratch;
  AttentionPlans& attention;
  ThreadPool& threads;
};

// Runs the tokens of the step through the model's layers and appends their keys and values to the pages. A token's result
// does not depend, bit for bit, on the other sequences of the step, on chunking or on page order.
void run_layers(const ForwardContext& context);

// The logits after some tokens of the step that the layers have run: one row of scratch.logits each. tokens: their places
// in the step, num_rows of them, at most max_samples.
void compute_logits(const ForwardContext& context, const int32_t* tokens, int32_t num_rows);

}  // namespace octavo
