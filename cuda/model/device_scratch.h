// Device memory of a step between its kernels, in one block allocated for the largest step.
#pragma once

#include <cstdint>
#include <vector>

#include "arch/gpu_memory.h"
#include "model/device_weights.h"
#include "ops/device_ops.h"

namespace octavo {

// T = max_num_batched_tokens, R = max_samples; "compute" elements are of the model's compute_dtype (2 bytes).
struct DeviceScratch {
  DeviceScratch(const DeviceModel& model, const octavo_engine_config& config, const octavo_step_layout& layout);

  // The device's step buffer, as layout places it, and the packed step that fills it.
  uint8_t* step_buffer;
  uint8_t* packed;
  StepTables tables;
  int32_t* sampled;  // [R] of step_buffer: the step before's until the sampler runs

  float* hidden;       // [T][hidden_size] the residual stream
  void* normed;        // [T][hidden_size] compute; input of the next product, which uses it up
  void* attn;          // [T][num_q_heads][head_dim] compute; attention's output, in normed's memory
  float* projected;    // [T][hidden_size] where a post norm comes before the residual; else nullptr
  float* cosines[2];   // [T][head_dim / 2] of RoPE table 0 and 1; nullptr: not used
  float* sines[2];
  float* inv_freq;     // [2][head_dim / 2]
  uint8_t* e4m3;       // [T][widest input] and its scales [T]: inputs of FP8 products; nullptr without FP8 weights
  float* e4m3_scales;
  float* activation_scales;  // [T]: of the activation where it is stored in E4M3; nullptr without FP8 weights
  float* keys;         // [T][num_kv_heads][head_dim] for calculate_kv_scales and histograms; else nullptr
  void* head_input;    // [R][hidden_size] compute

  uint64_t size_bytes() const { return memory_.size_bytes(); }

 private:
  // Where a pointer goes and how far from the block's start.
  struct Place {
    void** pointer;
    size_t offset_bytes;
  };
  template <class T>
  void place(T*& pointer, uint64_t count, uint64_t width, uint64_t element_bytes);
  void place_rows(const DeviceModel& model, const octavo_engine_config& config);

  std::vector<Place> places_;
  size_t end_bytes_ = 0;
  GpuMemory memory_;
};

// The widest input of an FP8 product; 0 where no weights are FP8.
int32_t widest_e4m3_input(const DeviceModel& model);

}  // namespace octavo
