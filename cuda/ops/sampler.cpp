#include "ops/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/philox.h"
#include "ops/vector_ops.h"

namespace octavo {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

int32_t count_blocks(int32_t n) { return n / kVectorBlock + (n % kVectorBlock != 0); }

double sum(const float* values, int32_t n) {
  double total = 0;
  for (int32_t i = 0; i < n; ++i) total += values[i];
  return total;
}

}  // namespace

Sampler::Sampler(int32_t vocab_size)
    : vocab_size_(vocab_size),
      num_blocks_(count_blocks(vocab_size)),
      edited_(sizeof(float) * static_cast<size_t>(vocab_size)),
      maxima_(sizeof(float) * static_cast<size_t>(num_blocks_)),
      block_scratch_(sizeof(float) * static_cast<size_t>(num_blocks_)),
      candidates_(sizeof(Candidate) * static_cast<size_t>(vocab_size)),
      selection_(sizeof(Candidate) * static_cast<size_t>(vocab_size)),
      log_weights_(sizeof(float) * static_cast<size_t>(vocab_size)),
      kept_tokens_(sizeof(int32_t) * static_cast<size_t>(vocab_size)),
      weights_(sizeof(float) * static_cast<size_t>(vocab_size)),
      block_sums_(sizeof(float) * static_cast<size_t>(num_blocks_)) {}

void Sampler::edit_logits(const float* logits, const SamplingParams& params, const LogitEdits& edits) {
  float* edited = edited_.as<float>();
  std::copy(logits, logits + vocab_size_, edited);
  for (int32_t i = 0; i < edits.num; ++i) {
    float& logit = edited[edits.token[i]];
    if ((edits.flags[i] & kEditSeen) != 0) {
      logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    }
    logit -= params.frequency_penalty * static_cast<float>(edits.count[i]);
    if (edits.count[i] > 0) logit -= params.presence_penalty;
    logit += edits.bias[i];
    if ((edits.flags[i] & kEditBanned) != 0) logit = -kInfinity;
  }
}

void Sampler::apply_mask(const uint32_t* mask) {
  float* edited = edited_.as<float>();
  for (int32_t i = 0; i < vocab_size_; ++i) {
    if ((mask[i / 32] >> (i % 32) & 1) == 0) edited[i] = -kInfinity;
  }
}

bool Sampler::prepare_plain(const float* logits) {
  logits_ = logits;
  vector_ops().block_max(logits_, vocab_size_, maxima_.as<float>());
  max_ = *std::max_element(maxima_.as<float>(), maxima_.as<float>() + num_blocks_);
  return max_ > -kInfinity;
}

bool Sampler::prepare(const float* logits, const SamplingParams& params, const LogitEdits& edits,
                      const uint32_t* mask) {
  const bool changes = edits.num > 0 || mask != nullptr;
  if (changes) edit_logits(logits, params, edits);
  if (mask != nullptr) apply_mask(mask);
  seed_[0] = params.seed_low;
  seed_[1] = params.seed_high;
  if (!prepare_plain(changes ? edited_.as<float>() : logits)) return false;
  if (params.temperature == 0 || max_ == kInfinity) {
    keep_one(most_likely());
  } else {
    keep_all(params.temperature);
    keep_filtered(params);
  }
  return true;
}

int32_t Sampler::most_likely() const {
  const float* maxima = maxima_.as<float>();
  const int64_t block = std::find(maxima, maxima + num_blocks_, max_) - maxima;
  return static_cast<int32_t>(std::find(logits_ + block * kVectorBlock, logits_ + vocab_size_, max_) - logits_);
}

void Sampler::keep_one(int32_t token) {
  all_kept_ = false;
  num_kept_ = 1;
  kept_tokens_.as<int32_t>()[0] = token;
  weights_.as<float>()[0] = 1;
  block_sums_.as<float>()[0] = 1;
  total_ = 1;
}

void Sampler::keep_all(float temperature) {
  vector_ops().exp_weights(logits_, vocab_size_, max_, temperature, weights_.as<float>(), block_sums_.as<float>());
  all_kept_ = true;
  num_kept_ = vocab_size_;
  total_ = sum(block_sums_.as<float>(), num_blocks_);
}

// What top-k and top-p keep is a beginning of the order of likelihood, found as its last candidate.
void Sampler::keep_filtered(const SamplingParams& params) {
  const bool cuts_k = params.top_k > 0 && params.top_k < vocab_size_;
  const bool cuts_p = params.top_p < 1;
  if (!cuts_k && !cuts_p && params.min_p == 0) return;
  Candidate* candidates = candidates_.as<Candidate>();
  int32_t num_gathered = 0;
  if (cuts_k) {
    num_gathered = gather_top_k(logits_, weights_.as<float>(), vocab_size_, maxima_.as<float>(), params.top_k,
                                block_scratch_.as<float>(), candidates);
  } else {
    // Tokens lighter than this add up to less than 1 - top_p of the total, so top-p's set holds none of them.
    const double spare = (1.0 - params.top_p) * total_ / vocab_size_;
    num_gathered = gather_weights(logits_, weights_.as<float>(), vocab_size_, block_sums_.as<float>(),
                                  std::max(static_cast<float>(0.999 * spare), params.min_p), candidates);
  }
  Candidate* selection = selection_.as<Candidate>();
  std::copy(candidates, candidates + num_gathered, selection);
  int32_t num_selected = num_gathered;
  double total = total_;
  Candidate last = {-kInfinity, 0, vocab_size_};  // less likely than any
  if (cuts_k) {
    num_selected = std::min(params.top_k, num_gathered);
    last = kth_most_likely(selection, num_gathered, num_selected);
    total = 0;
    for (int32_t i = 0; i < num_selected; ++i) total += selection[i].weight;
  }
  if (cuts_p) last = last_reaching(selection, num_selected, params.top_p * total);
  keep(num_gathered, last, params.min_p);
}

// Keeps by token those candidates that are no less likely than last and weigh at least min_weight.
void Sampler::keep(int32_t num_candidates, const Candidate& last, float min_weight) {
  const Candidate* candidates = candidates_.as<Candidate>();
  float* weights = weights_.as<float>();
  all_kept_ = false;
  num_kept_ = 0;
  for (int32_t i = 0; i < num_candidates; ++i) {
    if (more_likely(last, candidates[i]) || candidates[i].weight < min_weight) continue;
    kept_tokens_.as<int32_t>()[num_kept_] = candidates[i].token;
    weights[num_kept_++] = candidates[i].weight;
  }
  total_ = 0;
  for (int32_t block = 0; block < count_blocks(num_kept_); ++block) {
    const int32_t begin = block * kVectorBlock;
    const double block_sum = sum(weights + begin, std::min(kVectorBlock, num_kept_ - begin));
    block_sums_.as<float>()[block] = static_cast<float>(block_sum);
    total_ += block_sum;
  }
}

// Walks the cumulative weights to uniform * total: whole blocks first, then the tokens of one block.
//
//   block_sums  |  0  |  1  | ... |  b  | ...
//   weights                       | . . x . |     x: the first whose cumulative weight exceeds the target
int32_t Sampler::draw(int32_t sample_index) const {
  const float* weights = weights_.as<float>();
  const float* block_sums = block_sums_.as<float>();
  const double target = uniform_draw(seed_[0], seed_[1], static_cast<uint32_t>(sample_index)) * total_;
  const int32_t last_block = count_blocks(num_kept_) - 1;
  double sum = 0;
  int32_t block = 0;
  while (block < last_block && sum + block_sums[block] <= target) sum += block_sums[block++];
  int32_t chosen = block * kVectorBlock;
  const int32_t end = block == last_block ? num_kept_ : chosen + kVectorBlock;
  for (; chosen < end; ++chosen) {
    sum += weights[chosen];
    if (sum > target) break;
  }
  // Sums in another order may fall short of the target by a rounding: then the last token with any weight is meant.
  if (chosen == end) {
    do --chosen;
    while (weights[chosen] == 0);
  }
  return all_kept_ ? chosen : kept_tokens_.as<int32_t>()[chosen];
}

double Sampler::log_sum_exp() {
  vector_ops().exp_weights(logits_, vocab_size_, max_, 1.0f, log_weights_.as<float>(), block_scratch_.as<float>());
  return max_ + std::log(sum(block_scratch_.as<float>(), num_blocks_));
}

float Sampler::logit(int32_t token) const { return std::isnan(logits_[token]) ? -kInfinity : logits_[token]; }

int32_t Sampler::rank(int32_t token) const {
  const float own = logit(token);
  return 1 + static_cast<int32_t>(std::count_if(logits_, logits_ + vocab_size_, [own](float x) { return x > own; }));
}

float Sampler::log_probability(int32_t token, double log_sum_exp) const {
  return static_cast<float>(logit(token) - log_sum_exp);
}

void Sampler::top_log_probabilities(int32_t n, double log_sum_exp, int32_t* tokens, float* log_probabilities) {
  std::fill(tokens, tokens + n, -1);
  std::fill(log_probabilities, log_probabilities + n, 0.0f);
  if (n == 0) return;
  Candidate* candidates = candidates_.as<Candidate>();
  const int32_t num_gathered =
      gather_top_k(logits_, nullptr, vocab_size_, maxima_.as<float>(), n, block_scratch_.as<float>(), candidates);
  const int32_t num_sorted = std::min(n, num_gathered);
  std::partial_sort(candidates, candidates + num_sorted, candidates + num_gathered, more_likely);
  for (int32_t i = 0; i < num_sorted; ++i) {
    tokens[i] = candidates[i].token;
    log_probabilities[i] = log_probability(candidates[i].token, log_sum_exp);
  }
}

}  // namespace octavo
