// An engine: KV pages, scratch memory, threads and samplers for one model. step() checks the step buffer, runs the forward
// pass and samples.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "arch/thread_pool.h"
#include "attn/attention.h"
#include "model/kv_cache.h"
#include "model/model.h"
#include "model/scratch.h"
#include "model/step_buffer.h"
#include "model/step_queue.h"
#include "ops/sampler.h"

namespace octavo {

class Engine {
 public:
  // Arguments as octavo_engine_create's. Throws Error.
  Engine(const Model& model, const octavo_engine_config& config, const float* kv_scales);

  // octavo_step, octavo_step_submit and octavo_step_finish. Throw Error (OCTAVO_INVALID_ARGUMENT) before anything has run
  // when the input is not valid. submit() runs the step; finish() only keeps the order.
  void step(uint8_t* step_buffer, double size_bytes);
  void submit(uint8_t* step_buffer, double size_bytes);
  void finish(const uint8_t* step_buffer) { queue_.finish(step_buffer); }

  // Copies the raw logits of a sequence of the step submitted last.
  void copy_logits(int32_t seq_index, float* logits) const;

  const KvCache& kv() const { return kv_; }

 private:
  void resolve_tokens(StepView& step);
  void sample(const StepView& step, int32_t num_rows);
  void sample_row(const StepView& step, int32_t row, Sampler& sampler) const;

  const Model& model_;
  octavo_engine_config config_;
  octavo_step_layout layout_;
  KvCache kv_;
  Scratch scratch_;
  AttentionScratch attention_scratch_;
  ThreadPool threads_;
  std::vector<Sampler> samplers_;     // one a thread
  std::vector<int32_t> page_writer_;  // for check_step
  std::vector<int32_t> row_seq_;      // sequence of each row of logits in the last step
  std::vector<int32_t> tokens_;       // the step's tokens with none left below 0
  std::vector<int32_t> sampled_;      // of the last step
  StepQueue queue_;
};

}  // namespace octavo

// The ABI's handle.
struct octavo_engine {
  std::shared_ptr<const octavo::Model> model;  // before the engine, which refers to it to its end
  octavo::Engine engine;
};
