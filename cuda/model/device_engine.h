// The GPU's engine: everything a step needs is reserved and exercised when it is opened, so that serving allocates nothing
// and meets no shape for the first time.
//
//   host     pack n | submit | pack n+1 | submit | wait n | read n | pack n+2 ...
//   stream          | copy, step n, copy back    | copy, step n+1, copy back | ...
//
// A step whose sequences have one token each and one KV dtype replays a graph captured for a bucket of at least as many
// sequences of that dtype; other steps are enqueued kernel by kernel. Sampled ids stay in the device's step buffer for the step after.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "arch/gpu_graph.h"
#include "arch/gpu_memory.h"
#include "model/device_forward.h"
#include "model/device_host_pages.h"
#include "model/device_kv_cache.h"
#include "model/device_scratch.h"
#include "model/engine_base.h"
#include "ops/device_sampler.h"

namespace octavo {

// Numbers of sequences for which graphs are captured: 1 to largest in steps that waste little, ascending.
std::vector<int32_t> list_buckets(int32_t largest);

class DeviceEngine : public EngineBase {
 public:
  // Arguments as octavo_engine_create's. Throws Error.
  DeviceEngine(std::shared_ptr<const DeviceModel> model, const octavo_engine_config& config, const KvValues& kv_values);
  ~DeviceEngine() override;

  // After an error of the device every call throws Error (OCTAVO_DEVICE) with its message.
  void submit(uint8_t* step_buffer, double size_bytes) override;
  void finish(uint8_t* step_buffer) override;
  void copy_logits(int32_t row, float* logits) override;
  void copy_kv_scales(float* scales) override;
  void copy_kv_stats(double* stats, double* num_tokens) override;
  void copy_kv_histograms(float* absmax, double* histogram, double* k_sum) override;
  void transfer(const Transfer& transfer) override;
  octavo_transfer_stats transfer_stats() override;
  void copy_host_page(int32_t host_page, uint8_t* bytes, double size_bytes) override;
  uint64_t page_checksum(int32_t page) override;

 private:
  void end_kv_scales() override;
  // Host memory of one step under way.
  struct Slot {
    PinnedMemory packed;
    PinnedMemory outputs;  // the step buffer's bytes from sampled on
    GpuEvent done;
    int32_t num_rows = 0;
    int32_t num_scores = 0;
    bool has_logprobs = false;
  };
  struct BucketGraph {
    int32_t kv_index;  // of all of its sequences
    int32_t num_seqs;  // at least those of the step, with one token and at most one row each
    GpuGraph graph;
  };

  DeviceForward open_forward() const;
  void enqueue(const StepView& step, Slot& slot);
  const BucketGraph* find_graph(const StepView& step, const KvGroups& groups) const;
  void enqueue_kernels(const DeviceStep& step);
  void enqueue_scores(int32_t num_scores);
  void copy_outputs(Slot& slot);
  void read_outputs(const Slot& slot, uint8_t* step_buffer) const;
  void warm_up();
  void warm_up(int32_t kv_index);
  void warm_up(int32_t kv_index, int32_t num_seqs, int32_t num_tokens);
  void capture_graphs();
  template <class Body>
  void on_device(Body&& body);

  std::shared_ptr<const DeviceModel> model_;
  octavo_engine_config config_;
  octavo_step_layout layout_;
  GpuStreamOwner stream_;
  DeviceScratch scratch_;
  DeviceKvCache kv_;
  DeviceHostPages host_pages_;
  DeviceForward forward_;
  DeviceSampler sampler_;
  Slot slots_[StepQueue::kMaxSteps];
  std::vector<BucketGraph> graphs_;
  int32_t next_slot_ = 0;
  int32_t oldest_slot_ = 0;
  std::vector<int32_t> page_writer_;  // for check_step
  std::string failure_;               // of the device; empty: none
  double num_tokens_ = 0;             // of all steps
};

}  // namespace octavo
