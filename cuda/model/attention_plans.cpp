#include "model/attention_plans.h"

#include <algorithm>

#include "model/kv_dtypes.h"

namespace octavo {
namespace {

AttentionBounds bounds_of(const octavo_model_config& model, const octavo_engine_config& config, int32_t num_threads) {
  const int64_t longest = int64_t{config.max_pages_per_seq} * largest_page_size(config);
  return {model.num_q_heads,
          model.num_kv_heads,
          model.head_dim,
          std::min(config.max_num_seqs, config.max_num_batched_tokens),
          config.max_num_batched_tokens,
          std::min<int64_t>(longest, model.max_model_len),
          num_threads};
}

}  // namespace

AttentionPlans::AttentionPlans(const octavo_model_config& model, const std::vector<octavo_layer_config>& layers,
                               const octavo_engine_config& config, int32_t num_threads)
    : num_threads_(num_threads) {
  const AttentionBounds bounds = bounds_of(model, config, num_threads);
  for (int32_t kv_index = 0; kv_index < num_kv_dtypes(config); ++kv_index) {
    for (const octavo_layer_config& layer : layers) {
      const bool is_known = std::any_of(entries_.begin(), entries_.end(), [&](const Entry& one) {
        return one.kv_index == kv_index && one.window == layer.sliding_window;
      });
      if (is_known) continue;
      entries_.push_back({kv_index, layer.sliding_window, false, {}});
      entries_.back().plan.reserve(bounds);
    }
  }
  scratch_.reserve(num_threads, model.head_dim, AttentionPlan::max_partial_floats(bounds));
}

void AttentionPlans::begin_step() {
  for (Entry& one : entries_) one.is_made = false;
}

AttentionPlan& AttentionPlans::find(int32_t kv_index, const AttentionArgs& args) {
  const auto entry = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& one) {
    return one.kv_index == kv_index && one.window == args.config.sliding_window;
  });
  if (!entry->is_made) {
    entry->plan.make(args, num_threads_);
    entry->is_made = true;
  }
  return entry->plan;
}

}  // namespace octavo
