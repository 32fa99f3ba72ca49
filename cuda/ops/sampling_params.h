// What a sequence asks of the sampler, as it comes through the ABI, and its checks.
#pragma once

#include <cstdint>

#include "octavo.h"

namespace octavo {

// Fields as the step buffer's columns of the same names (octavo.h).
struct SamplingParams {
  float temperature;
  float top_p;
  float min_p;
  float repetition_penalty;
  float presence_penalty;
  float frequency_penalty;
  int32_t top_k;
  int32_t sample_index;
  uint32_t seed_low;
  uint32_t seed_high;
};

// Changes to single logits: [num] each, a token at most once.
struct LogitEdits {
  const int32_t* token;
  const int32_t* count;
  const int32_t* flags;
  const float* bias;
  int32_t num;
};

constexpr int32_t kEditSeen = 1;    // in prompt or output
constexpr int32_t kEditBanned = 2;  // never sampled

// Throw Error (OCTAVO_INVALID_ARGUMENT) naming seq_index, the first field out of its range and its value.
void check_sampling_params(const SamplingParams& params, int32_t seq_index);
void check_logit_edits(const LogitEdits& edits, int32_t vocab_size, int32_t seq_index);

// octavo_sample's arguments as the sampler takes them; sampling is not NULL.
SamplingParams sampling_params(const octavo_sampling& sampling);

// Throws Error (OCTAVO_INVALID_ARGUMENT) for arguments of octavo_sample out of their range; what the tables hold is not
// read.
void check_sample_arguments(const octavo_sampling& sampling, const float* logits, int32_t vocab_size,
                            const LogitEdits& edits, const int32_t* sampled);

}  // namespace octavo
