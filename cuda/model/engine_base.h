// What the ABI's edge asks of an engine; every build has its own.
#pragma once

#include <cstdint>
#include <memory>

#include "model/kv_cache_config.h"
#include "model/step_queue.h"
#include "model/transfer.h"
#include "octavo.h"

namespace octavo {

class EngineBase {
 public:
  virtual ~EngineBase() = default;

  // octavo_step_submit and octavo_step_finish. Throw Error (OCTAVO_INVALID_ARGUMENT) before anything has run when the
  // input is not valid.
  virtual void submit(uint8_t* step_buffer, double size_bytes) = 0;
  virtual void finish(uint8_t* step_buffer) = 0;

  // octavo_step
  void step(uint8_t* step_buffer, double size_bytes) {
    queue_.check_idle();
    submit(step_buffer, size_bytes);
    finish(step_buffer);
  }

  // Copies the raw logits of a row of the step submitted last.
  virtual void copy_logits(int32_t row, float* logits) = 0;

  // Copies all scales: [num_layers][2][num_kv_heads].
  virtual void copy_kv_scales(float* scales) = 0;

  // octavo_engine_freeze_kv_scales
  void freeze_kv_scales() {
    queue_.check_idle();
    end_kv_scales();
  }

  // octavo_engine_kv_stats and octavo_engine_kv_histograms. Throw Error (OCTAVO_INVALID_ARGUMENT) where nothing of the kind
  // is counted.
  virtual void copy_kv_stats(double* stats, double* num_tokens) = 0;
  virtual void copy_kv_histograms(float* absmax, double* histogram, double* k_sum) = 0;

  // octavo_engine_save_pages, octavo_engine_restore_pages and what belongs to them. Throw Error
  // (OCTAVO_INVALID_ARGUMENT).
  virtual void transfer(const Transfer& transfer) = 0;
  virtual octavo_transfer_stats transfer_stats() = 0;
  virtual void copy_host_page(int32_t host_page, uint8_t* bytes, double size_bytes) = 0;

  // octavo_engine_page_checksum. Throws Error (OCTAVO_INVALID_ARGUMENT).
  virtual uint64_t page_checksum(int32_t page) = 0;

 protected:
  // Sets the calculated scales for good. Throws Error (OCTAVO_INVALID_ARGUMENT) where there is nothing to set.
  virtual void end_kv_scales() = 0;

  StepQueue queue_;
};

// Opens the build's engine; arguments as octavo_engine_create's. Throws Error.
std::unique_ptr<EngineBase> open_engine(const octavo_model& model, const octavo_engine_config& config,
                                        const KvValues& kv_values);

// octavo_engine_scratch_bytes
double engine_scratch_bytes(const octavo_model& model, const octavo_engine_config& config);

}  // namespace octavo

// The ABI's handle.
struct octavo_engine {
  std::unique_ptr<octavo::EngineBase> engine;
};
