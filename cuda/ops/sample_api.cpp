// octavo_sample.
#include "arch/error.h"
#include "ops/sampler.h"

namespace octavo {
namespace {

constexpr int32_t kMaxVocabSize = 1 << 24;  // as octavo_model_create: block counts are int32

void check_arguments(const octavo_sampling& sampling, const float* logits, int32_t vocab_size, const LogitEdits& edits,
                     const int32_t* sampled) {
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

}  // namespace
}  // namespace octavo

extern "C" int32_t octavo_sample(const octavo_sampling* sampling, const float* logits, int32_t vocab_size,
                                 const int32_t* edit_token, const int32_t* edit_count, const int32_t* edit_flags,
                                 const float* edit_bias, int32_t* sampled, float* sampled_logprob) {
  using namespace octavo;
  return guard([&] {
    if (sampling == nullptr) fail(OCTAVO_INVALID_ARGUMENT, "sampling must not be NULL");
    const SamplingParams params = {sampling->temperature,      sampling->top_p,
                                   sampling->min_p,            sampling->repetition_penalty,
                                   sampling->presence_penalty, sampling->frequency_penalty,
                                   sampling->top_k,            sampling->sample_index,
                                   sampling->seed_low,         sampling->seed_high};
    const LogitEdits edits = {edit_token, edit_count, edit_flags, edit_bias, sampling->num_edits};
    check_sampling_params(params, 0);
    check_arguments(*sampling, logits, vocab_size, edits, sampled);
    check_logit_edits(edits, vocab_size, 0);
    Sampler sampler(vocab_size);
    if (!sampler.prepare(logits, params, edits)) {
      fail(OCTAVO_INVALID_ARGUMENT, "logits hold no value above -infinity that is not banned");
    }
    const double log_sum_exp = sampled_logprob != nullptr ? sampler.log_sum_exp() : 0;
    for (int32_t i = 0; i < sampling->num_draws; ++i) {
      sampled[i] = sampler.draw(params.sample_index + i);
      if (sampled_logprob != nullptr) sampled_logprob[i] = sampler.log_probability(sampled[i], log_sum_exp);
    }
  });
}
