// What octavo_engine_kv_histograms tells, in a GPU's memory.
#pragma once

#include <cstdint>

#include "arch/gpu_memory.h"
#include "octavo.h"
#include "ops/device_ops.h"

namespace octavo {

class DeviceKvHistograms {
 public:
  // Nothing is counted yet. Throws Error when there is not enough memory.
  explicit DeviceKvHistograms(const octavo_model_config& model);

  // Enqueues the counting of a layer of a step.
  void add(int32_t layer, KvHistogramParams params, GpuStream stream) const;

  // Arguments as octavo_engine_kv_histograms's, once the stream's work so far is done.
  void copy(float* absmax, double* histogram, double* k_sum, GpuStream stream) const;

  void clear(GpuStream stream);

 private:
  size_t num_rows_;  // num_layers x 2 x num_kv_heads
  size_t num_sums_;  // num_layers x num_kv_heads x head_dim
  int32_t num_layers_;
  GpuMemory absmax_;
  GpuMemory counts_;
  GpuMemory k_sum_;
};

}  // namespace octavo
