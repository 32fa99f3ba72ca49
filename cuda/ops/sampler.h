// Draws tokens from one row of logits: penalties, bias and bans, temperature, top-k, top-p, min-p.
#pragma once

#include <cstdint>

#include "arch/aligned_buffer.h"
#include "ops/candidates.h"
#include "ops/sampling_params.h"

namespace octavo {

// Scratch memory and state of one row at a time; one per thread. Time per row is linear in the vocabulary: one pass for
// the maximum, one for the weights, and selection among the tokens that can still be in the set.
class Sampler {
 public:
  explicit Sampler(int32_t vocab_size);

  // Prepares draws from logits[vocab_size], which must stay until the last draw. params and edits must be valid. mask:
  // bits of the tokens that may be drawn, or nullptr for all. Returns false when no logit is above -infinity; then nothing
  // may be drawn. NaN counts as -infinity.
  bool prepare(const float* logits, const SamplingParams& params, const LogitEdits& edits, const uint32_t* mask);

  // The token of draw sample_index under the row's seed; the most likely one when temperature is 0.
  int32_t draw(int32_t sample_index) const;

  // Takes logits as they are, for log-probabilities alone; otherwise as prepare().
  bool prepare_plain(const float* logits);

  // 1 + the number of tokens that are likelier than this one.
  int32_t rank(int32_t token) const;

  // Natural log of the sum of exp of the edited logits.
  double log_sum_exp();

  // Natural log-probability of a token after penalties and edits, before temperature and filters.
  float log_probability(int32_t token, double log_sum_exp) const;

  // The n most likely tokens and their log-probabilities, best first; -1 and 0 fill up where fewer can be sampled.
  void top_log_probabilities(int32_t n, double log_sum_exp, int32_t* tokens, float* log_probabilities);

 private:
  float logit(int32_t token) const;
  void edit_logits(const float* logits, const SamplingParams& params, const LogitEdits& edits);
  void apply_mask(const uint32_t* mask);
  int32_t most_likely() const;
  void keep_one(int32_t token);
  void keep_all(float temperature);
  void keep_filtered(const SamplingParams& params);
  void keep(int32_t num_candidates, const Candidate& last, float min_weight);

  int32_t vocab_size_;
  int32_t num_blocks_;
  AlignedBuffer edited_;         // float[vocab_size], after edits and mask
  AlignedBuffer maxima_;         // float[num_blocks]
  AlignedBuffer block_scratch_;  // float[num_blocks]
  AlignedBuffer candidates_;     // Candidate[vocab_size], by token
  AlignedBuffer selection_;      // Candidate[vocab_size], the same reordered
  AlignedBuffer log_weights_;    // float[vocab_size], of log_sum_exp
  // The row.
  const float* logits_ = nullptr;  // with edits
  float max_ = 0;
  uint32_t seed_[2] = {0, 0};
  // What may be drawn: kept_tokens[i] with weight weights[i]; tokens 0, 1, 2 ... when all are kept.
  bool all_kept_ = false;
  int32_t num_kept_ = 0;
  double total_ = 0;
  AlignedBuffer kept_tokens_;  // int32[vocab_size]
  AlignedBuffer weights_;      // float[vocab_size]
  AlignedBuffer block_sums_;   // float[num_blocks], of weights
};

}  // namespace octavo
