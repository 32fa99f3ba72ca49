// Samples the rows of a step on the device: the semantics of ops/sampler.h, from logits that stay where the LM head wrote
// them. A few blocks share a row and hold it in shared memory, so that the logits are read once; thresholds come from
// histograms, not from sorting, so that no input takes long. Weights are summed as integers: a row's token depends on its
// own logits and params alone, never on its batch-mates or on the order in which blocks run.
#pragma once

#include <cstdint>

#include "arch/gpu.h"
#include "octavo.h"
#include "ops/sampling_params.h"
#include "ops/step_row.h"

namespace octavo {

struct DeviceSamplerConfig {
  int32_t max_rows;  // rows of one call
  int32_t vocab_size;
  int32_t max_logprobs;  // L of the step buffer
  bool use_clusters = true;  // false: the blocks of a row meet in memory also where the hardware could let them meet
};

struct SampleKernelParams;

struct DeviceSampleArgs {
  const float* logits;     // device, [num_rows][logits_stride]; read only
  int64_t logits_stride;   // floats from row to row; a multiple of 4 with logits aligned to 16 bytes reads fastest
  const StepRow* rows;     // device, [num_rows]; those of no sequence are left alone
  int32_t num_rows;        // rows of the grid, at most max_rows: fixed in a graph
  const octavo_step_layout* layout;  // host
  uint8_t* step_buffer;    // device copy of the step buffer: input tables are read, output tables written
  int32_t mask_words;      // 32-bit words of a token mask
};

// A run of the step's scores.
struct DeviceScoreArgs {
  const float* logits;    // device, [num_rows][logits_stride] after the tokens before the scored ones; read only
  int64_t logits_stride;
  int32_t first;          // of the step's scores
  int32_t num_rows;       // at most max_rows
  const octavo_step_layout* layout;  // host
  uint8_t* step_buffer;   // as in DeviceSampleArgs
};

// Workspace for one call at a time. Nothing is allocated after construction.
class DeviceSampler {
 public:
  // Allocates on the current device. Throws Error: OCTAVO_OUT_OF_MEMORY, or OCTAVO_UNSUPPORTED for a vocabulary that the
  // card's shared memory cannot hold.
  explicit DeviceSampler(const DeviceSamplerConfig& config);
  ~DeviceSampler();
  DeviceSampler(const DeviceSampler&) = delete;
  DeviceSampler& operator=(const DeviceSampler&) = delete;

  // Enqueues one kernel that fills sampled, sampled_logprob, top_token and top_logprob of the step's rows as octavo.h
  // says. Everything that differs between steps is read from the step buffer on the
  // device, so the call may be captured in a graph. overlap: see gpu_launch.
  void sample(const DeviceSampleArgs& args, GpuStream stream, bool overlap);

  // Enqueues one kernel that fills score_logprob, score_rank, score_top_token and score_top_logprob of a run of scores.
  void score(const DeviceScoreArgs& args, GpuStream stream, bool overlap);

  // As sample() for draws sample_index, sample_index + 1, ... from one row of logits; edits, sampled [num_draws] and
  // sampled_logprob ([num_draws] or nullptr) are device memory, num_draws at most max_rows.
  void draw(const float* logits, const SamplingParams& params, const LogitEdits& edits, int32_t num_draws,
            int32_t* sampled, float* sampled_logprob, GpuStream stream);

 private:
  SampleKernelParams base_params(const float* logits, int64_t logits_stride) const;

  DeviceSamplerConfig config_;
  int32_t blocks_per_row_;
  int32_t smem_bytes_;
  bool clusters_;              // the blocks of a row are a cluster of the hardware; else they meet in memory
  size_t arrivals_bytes_;      // of the workspace's first part
  void* workspace_ = nullptr;  // what the blocks of a row tell each other
};

}  // namespace octavo
