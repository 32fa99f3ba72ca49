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

// The largest of a row of logits; ties: the first. -infinity where there is none above it.
struct Peak {
  float max = -std::numeric_limits<float>::infinity();
  int32_t token = 0;
};

Peak find_peak(const float* logits, int32_t vocab_size) {
  Peak peak;
  for (int32_t i = 0; i < vocab_size; ++i) {
    if (logits[i] > peak.max) peak = {logits[i], i};
  }
  return peak;
}

// ln of the sum of exp.
double log_sum_exp(const float* logits, int32_t vocab_size, float max) {
  double sum = 0;
  for (int32_t i = 0; i < vocab_size; ++i) sum += std::exp(logits[i] - max);
  return max + std::log(sum);
}

// Compares a row of each, x and y, with p and q their softmax:
//
//   sum of p ln(p / q) = sum of p (x - y) - (ln sum exp x - ln sum exp y)
//
// False where NaN or infinity is among them, or nothing above -infinity. target: -1 = the largest of x.
bool compare_row(const float* x, const float* y, int32_t vocab_size, int32_t target, octavo_comparison& comparison) {
  const Peak x_peak = find_peak(x, vocab_size);
  const Peak y_peak = find_peak(y, vocab_size);
  if (!std::isfinite(x_peak.max) || !std::isfinite(y_peak.max)) return false;
  double total = 0;
  double weighted = 0;
  for (int32_t i = 0; i < vocab_size; ++i) {
    const double weight = std::exp(x[i] - x_peak.max);
    total += weight;
    // A token that p excludes adds nothing, whatever q makes of it.
    if (weight != 0) weighted += weight * (static_cast<double>(x[i]) - y[i]);
  }
  const double x_log_sum = x_peak.max + std::log(total);
  const double y_log_sum = log_sum_exp(y, vocab_size, y_peak.max);
  if (!std::isfinite(x_log_sum) || !std::isfinite(y_log_sum)) return false;
  const int32_t token = target < 0 ? x_peak.token : target;
  comparison.kl = weighted / total - (x_log_sum - y_log_sum);
  comparison.reference_logprob = x[token] - x_log_sum;
  comparison.logprob = y[token] - y_log_sum;
  comparison.reference_top = x_peak.token;
  comparison.top = y_peak.token;
  return true;
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
      if (!compare_row(reference_logits + first, logits + first, vocab_size, targets[row], comparisons[row])) {
        invalid_row = static_cast<int32_t>(row);
      }
    });
    if (invalid_row >= 0) {
      fail(OCTAVO_INVALID_ARGUMENT, "row %d of the logits is no distribution: it holds NaN or infinity",
           invalid_row.load());
    }
  });
}
