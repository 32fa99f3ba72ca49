// Attention's plans and scratch memory in an engine: taken when it is opened, so that steps take none.
#pragma once

#include <cstdint>
#include <vector>

#include "attn/attention_plan.h"
#include "octavo.h"

namespace octavo {

class AttentionPlans {
 public:
  AttentionPlans(const octavo_model_config& model, const std::vector<octavo_layer_config>& layers,
                 const octavo_engine_config& config, int32_t num_threads);

  // Voids the plans of the step before.
  void begin_step();

  // The plan for the step's sequences of a KV dtype and a layer's window; made for the first layer that asks.
  AttentionPlan& find(int32_t kv_index, const AttentionArgs& args);

  AttentionScratch& scratch() { return scratch_; }

 private:
  struct Entry {
    int32_t kv_index;
    int32_t window;
    bool is_made;
    AttentionPlan plan;
  };

  std::vector<Entry> entries_;
  AttentionScratch scratch_;
  int32_t num_threads_;
};

}  // namespace octavo
