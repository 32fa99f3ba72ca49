// octavo_sample.
#include "arch/error.h"
#include "ops/sampler.h"

extern "C" int32_t octavo_sample(const octavo_sampling* sampling, const float* logits, int32_t vocab_size,
                                 const int32_t* edit_token, const int32_t* edit_count, const int32_t* edit_flags,
                                 const float* edit_bias, int32_t* sampled, float* sampled_logprob) {
  using namespace octavo;
  return guard([&] {
    if (sampling == nullptr) fail(OCTAVO_INVALID_ARGUMENT, "sampling must not be NULL");
    const SamplingParams params = sampling_params(*sampling);
    const LogitEdits edits = {edit_token, edit_count, edit_flags, edit_bias, sampling->num_edits};
    check_sample_arguments(*sampling, logits, vocab_size, edits, sampled);
    check_logit_edits(edits, vocab_size, 0);
    Sampler sampler(vocab_size);
    if (!sampler.prepare(logits, params, edits, nullptr)) {
      fail(OCTAVO_INVALID_ARGUMENT, "logits hold no value above -infinity that is not banned");
    }
    const double log_sum_exp = sampled_logprob != nullptr ? sampler.log_sum_exp() : 0;
    for (int32_t i = 0; i < sampling->num_draws; ++i) {
      sampled[i] = sampler.draw(params.sample_index + i);
      if (sampled_logprob != nullptr) sampled_logprob[i] = sampler.log_probability(sampled[i], log_sum_exp);
    }
  });
}
