// The most likely tokens of a vocabulary without sorting it: thresholds first, then selection among the few that remain.
#pragma once

#include <cstdint>

namespace octavo {

struct Candidate {
  float logit;
  float weight;  // not normalised probability
  int32_t token;
};

// The order of likelihood: higher logit first, then the lower token.
inline bool more_likely(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

// Copies into candidates, by token, at least the k most likely of logits[n] (all that are above -infinity when fewer are)
// and returns how many. maxima: block_max of logits. block_scratch: as many floats as maxima. weights: [n] or nullptr.
int32_t gather_top_k(const float* logits, const float* weights, int32_t n, const float* maxima, int32_t k,
                     float* block_scratch, Candidate* candidates);

// Copies into candidates, by token, all of weight >= cut (> 0). block_sums: exp_weights' of weights.
int32_t gather_weights(const float* logits, const float* weights, int32_t n, const float* block_sums, float cut,
                       Candidate* candidates);

// The k-th most likely of candidates[n] (1 <= k <= n), which are reordered so that those before it come first.
Candidate kth_most_likely(Candidate* candidates, int32_t n, int32_t k);

// The last of the smallest set of most likely candidates[n] whose weights add up to target; the least likely one when they
// do not reach it. n >= 1; candidates are reordered.
Candidate last_reaching(Candidate* candidates, int32_t n, double target);

}  // namespace octavo
