// octavo_compare_logits: how far two sets of logits are apart. Host code of every build.
#include <atomic>
#include <cmath>
#include <limits>

#include "arch/cpu.h"
#include "arch/error.h"
#include "arch/thread_pool.h"
#include "octavo.h"

namespace octavo {
namespace {

// One row of logits as a distribution.
struct Distribution {
  const float* logits;
  float max = -std::numeric_limits<float>::infinity();
  int32_t top = 0;
  double log_sum = 0;  // of exp(logit - max)

  double logprob(int32_t token) const { return static_cast<double>(logits[token]) - max - log_sum; }
  // False where NaN or infinity is among the logits, or nothing above -infinity.
  bool is_valid() const { return std::isfinite(max) && std::isfinite(log_sum); }
};

Distribution distribution(const float* logits, int32_t vocab_size) {
  Distribution row = {logits};
  for (int32_t i = 0; i < vocab_size; ++i) {
    if (logits[i] > row.max) {
      row.max = logits[i];
      row.top = i;
    }
  }
  if (!std::isfinite(row.max)) return row;
  double sum = 0;
  for (int32_t i = 0; i < vocab_size; ++i) sum += std::exp(logits[i] - row.max);
  row.log_sum = std::log(sum);
  return row;
}

// sum of p ln(p / q) = sum of p (x - y) with x and y the log-probabilities. A token that p excludes adds nothing.
double divergence(const Distribution& p, const Distribution& q, int32_t vocab_size) {
  double weighted = 0;
  double total = 0;
  const double shift = (p.max + p.log_sum) - (q.max + q.log_sum);
  for (int32_t i = 0; i < vocab_size; ++i) {
    const float weight = std::exp(p.logits[i] - p.max);
    if (weight == 0) continue;
    weighted += weight * (static_cast<double>(p.logits[i]) - q.logits[i] - shift);
    total += weight;
  }
  return weighted / total;
}

// target: -1 = p.top
octavo_comparison compare(const Distribution& p, const Distribution& q, int32_t vocab_size, int32_t target) {
  const int32_t token = target < 0 ? p.top : target;
  octavo_comparison comparison = {};
  comparison.kl = divergence(p, q, vocab_size);
  comparison.reference_logprob = p.logprob(token);
  comparison.logprob = q.logprob(token);
  comparison.reference_top = p.top;
  comparison.top = q.top;
  return comparison;
}

}  // namespace
}  // namespace octavo

extern "C" int32_t octavo_compare_logits(const float* reference_logits, const float* logits, int32_t vocab_size,
                                         int32_t count, const int32_t* targets, octavo_comparison* comparisons,
                                         int32_t num_threads) {
  using namespace octavo;
  return guard([&] {
    if (vocab_size <= 0 || count < 0) {
      fail(OCTAVO_INVALID_ARGUMENT, "vocab_size must be positive and count not negative, found %d and %d", vocab_size,
           count);
    }
    if (count == 0) return;
    if (reference_logits == nullptr || logits == nullptr || targets == nullptr || comparisons == nullptr) {
      fail(OCTAVO_INVALID_ARGUMENT, "reference_logits, logits, targets and comparisons must not be NULL");
    }
    for (int32_t row = 0; row < count; ++row) {
      if (targets[row] < -1 || targets[row] >= vocab_size) {
        fail(OCTAVO_INVALID_ARGUMENT, "targets[%d] must be -1 .. %d, found %d", row, vocab_size - 1, targets[row]);
      }
    }
    ThreadPool threads(resolve_num_threads(num_threads));
    std::atomic<int32_t> invalid_row{-1};
    threads.run(count, [&](int64_t row, int) {
      const int64_t first = row * vocab_size;
      const Distribution p = distribution(reference_logits + first, vocab_size);
      const Distribution q = distribution(logits + first, vocab_size);
      if (p.is_valid() && q.is_valid()) {
        comparisons[row] = compare(p, q, vocab_size, targets[row]);
      } else {
        invalid_row = static_cast<int32_t>(row);
      }
    });
    if (invalid_row >= 0) {
      fail(OCTAVO_INVALID_ARGUMENT, "row %d of the logits is no distribution: it holds NaN or infinity",
           invalid_row.load());
    }
  });
}
