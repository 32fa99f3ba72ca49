#include "ops/sampling_params.h"

#include <cmath>

#include "arch/error.h"

namespace octavo {
namespace {

constexpr int32_t kMaxVocabSize = 1 << 24;  // as octavo_model_create: block counts are int32

void check_finite(float value, const char* name, int32_t seq_index) {
  if (std::isfinite(value)) return;
  fail(OCTAVO_INVALID_ARGUMENT, "%s of sequence %d must be finite, found %g", name, seq_index, value);
}

void check_range(bool ok, float value, const char* name, const char* range, int32_t seq_index) {
  if (ok) return;  // comparisons with NaN are false
  fail(OCTAVO_INVALID_ARGUMENT, "%s of sequence %d must be %s, found %g", name, seq_index, range, value);
}

void check_not_negative(int32_t value, const char* name, int32_t seq_index) {
  if (value >= 0) return;
  fail(OCTAVO_INVALID_ARGUMENT, "%s of sequence %d must be at least 0, found %d", name, seq_index, value);
}

}  // namespace

void check_sampling_params(const SamplingParams& params, int32_t seq_index) {
  check_finite(params.temperature, "temperature", seq_index);
  check_range(params.temperature >= 0, params.temperature, "temperature", "at least 0", seq_index);
  check_not_negative(params.top_k, "top_k", seq_index);
  check_range(params.top_p > 0 && params.top_p <= 1, params.top_p, "top_p", "above 0 and at most 1", seq_index);
  check_range(params.min_p >= 0 && params.min_p <= 1, params.min_p, "min_p", "0 to 1", seq_index);
  check_finite(params.repetition_penalty, "repetition_penalty", seq_index);
  check_range(params.repetition_penalty > 0, params.repetition_penalty, "repetition_penalty", "above 0", seq_index);
  check_finite(params.presence_penalty, "presence_penalty", seq_index);
  check_finite(params.frequency_penalty, "frequency_penalty", seq_index);
  check_not_negative(params.sample_index, "sample_index", seq_index);
}

void check_logit_edits(const LogitEdits& edits, int32_t vocab_size, int32_t seq_index) {
  int32_t num_banned = 0;
  for (int32_t i = 0; i < edits.num; ++i) {
    if (edits.token[i] < 0 || edits.token[i] >= vocab_size) {
      fail(OCTAVO_INVALID_ARGUMENT, "edit_token %d of sequence %d must be 0 to %d, found %d", i, seq_index,
           vocab_size - 1, edits.token[i]);
    }
    check_not_negative(edits.count[i], "edit_count", seq_index);
    if ((edits.flags[i] & ~(kEditSeen | kEditBanned)) != 0) {
      fail(OCTAVO_INVALID_ARGUMENT, "edit_flags %d of sequence %d must be 0 to 3, found %d", i, seq_index,
           edits.flags[i]);
    }
    check_finite(edits.bias[i], "edit_bias", seq_index);
    if ((edits.flags[i] & kEditBanned) != 0) ++num_banned;
  }
  if (num_banned >= vocab_size) {
    fail(OCTAVO_INVALID_ARGUMENT, "sequence %d bans all %d tokens of the vocabulary", seq_index, vocab_size);
  }
}

SamplingParams sampling_params(const octavo_sampling& sampling) {
  return {sampling.temperature,      sampling.top_p,
          sampling.min_p,            sampling.repetition_penalty,
          sampling.presence_penalty, sampling.frequency_penalty,
          sampling.top_k,            sampling.sample_index,
          sampling.seed_low,         sampling.seed_high};
}

void check_sample_arguments(const octavo_sampling& sampling, const float* logits, int32_t vocab_size,
                            const LogitEdits& edits, const int32_t* sampled) {
  check_sampling_params(sampling_params(sampling), 0);
  if (logits == nullptr || sampled == nullptr) {
    fail(OCTAVO_INVALID_ARGUMENT, "logits and sampled must not be NULL");
  }
  if (vocab_size < 1 || vocab_size > kMaxVocabSize) {
    fail(OCTAVO_INVALID_ARGUMENT, "vocab_size must be 1 to %d, found %d", kMaxVocabSize, vocab_size);
  }
  if (edits.num < 0) fail(OCTAVO_INVALID_ARGUMENT, "num_edits must be at least 0, found %d", edits.num);
  if (edits.num > 0 && (edits.token == nullptr || edits.count == nullptr || edits.flags == nullptr ||
                        edits.bias == nullptr)) {
    fail(OCTAVO_INVALID_ARGUMENT, "the edit tables must not be NULL with num_edits %d", edits.num);
  }
  if (sampling.num_draws < 1 || sampling.num_draws - 1 > INT32_MAX - sampling.sample_index) {
    fail(OCTAVO_INVALID_ARGUMENT, "num_draws must be at least 1 and not lead past sample_index %d, found %d", INT32_MAX,
         sampling.num_draws);
  }
}

}  // namespace octavo
