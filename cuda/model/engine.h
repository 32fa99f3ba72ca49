// The CPU build's engine: KV pages, scratch memory, threads and samplers for one model. step() checks the step buffer, runs the forward
// pass and samples.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "arch/thread_pool.h"
#include "model/attention_plans.h"
#include "model/engine_base.h"
#include "model/forward.h"
#include "model/host_pages.h"
#include "model/kv_cache.h"
#include "model/kv_histograms.h"
#include "model/kv_stats.h"
#include "model/model.h"
#include "model/scratch.h"
#include "model/step_buffer.h"
#include "ops/sampler.h"
#include "ops/step_row.h"

namespace octavo {

class Engine final : public EngineBase {
 public:
  // Arguments as octavo_engine_create's. Throws Error.
  Engine(std::shared_ptr<const Model> model, const octavo_engine_config& config, const KvValues& kv_values);

  // Runs the step; finish() only keeps the order.
  void submit(uint8_t* step_buffer, double size_bytes) override;
  void finish(uint8_t* step_buffer) override { queue_.finish(step_buffer); }
  void copy_logits(int32_t row, float* logits) override;
  void copy_kv_scales(float* scales) override { kv_.copy_scales(scales); }
  void copy_kv_stats(double* stats, double* num_tokens) override;
  void copy_kv_histograms(float* absmax, double* histogram, double* k_sum) override;
  void transfer(const Transfer& transfer) override;
  octavo_transfer_stats transfer_stats() override { return host_pages_.stats(); }
  void copy_host_page(int32_t host_page, uint8_t* bytes, double size_bytes) override;
  uint64_t page_checksum(int32_t page) override;

 private:
  void end_kv_scales() override { kv_.freeze_scales(); }
  void list_rows(const StepView& step);
  void resolve_tokens(StepView& step);
  void score(const StepView& step, const ForwardContext& context);
  void score_row(const StepView& step, int32_t score, const float* logits, Sampler& sampler) const;
  void sample(const StepView& step);
  void sample_row(const StepView& step, int32_t row, Sampler& sampler) const;

  std::shared_ptr<const Model> model_;
  octavo_engine_config config_;
  octavo_step_layout layout_;
  KvCache kv_;
  std::unique_ptr<KvStats> kv_stats_;            // nullptr: not counted
  std::unique_ptr<KvHistograms> kv_histograms_;  // nullptr: not counted
  HostPages host_pages_;
  Scratch scratch_;
  ThreadPool threads_;
  AttentionPlans attention_;
  std::vector<Sampler> samplers_;     // one a thread
  std::vector<int32_t> page_writer_;  // for check_step
  std::vector<StepRow> rows_;         // of the last step
  std::vector<int32_t> row_token_;    // and the place in the step of each one's token
  std::vector<int32_t> tokens_;       // the step's tokens with none left below 0
  std::vector<int32_t> sampled_;      // of the last step
};

}  // namespace octavo
