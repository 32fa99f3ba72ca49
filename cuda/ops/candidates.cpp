#include "ops/candidates.h"

#include <algorithm>
#include <functional>
#include <limits>

#include "ops/vector_ops.h"

namespace octavo {
namespace {

int32_t block_end(int32_t begin, int32_t n) { return n - begin < kVectorBlock ? n : begin + kVectorBlock; }

}  // namespace

int32_t gather_top_k(const float* logits, const float* weights, int32_t n, const float* maxima, int32_t k,
                     float* block_scratch, Candidate* candidates) {
  // k blocks whose maximum is at least the bound hold k tokens that are at least the bound.
  const int32_t num_blocks = (n + kVectorBlock - 1) / kVectorBlock;
  float bound = -std::numeric_limits<float>::infinity();
  if (k <= num_blocks) {
    std::copy(maxima, maxima + num_blocks, block_scratch);
    std::nth_element(block_scratch, block_scratch + k - 1, block_scratch + num_blocks, std::greater<float>());
    bound = block_scratch[k - 1];
  }
  int32_t num = 0;
  for (int32_t begin = 0; begin < n; begin += kVectorBlock) {
    if (!(maxima[begin / kVectorBlock] >= bound)) continue;
    for (int32_t i = begin; i < block_end(begin, n); ++i) {
      if (!(logits[i] >= bound) || logits[i] == -std::numeric_limits<float>::infinity()) continue;
      candidates[num++] = {logits[i], weights != nullptr ? weights[i] : 0.0f, i};
    }
  }
  return num;
}

int32_t gather_weights(const float* logits, const float* weights, int32_t n, const float* block_sums, float cut,
                       Candidate* candidates) {
  int32_t num = 0;
  for (int32_t begin = 0; begin < n; begin += kVectorBlock) {
    if (block_sums[begin / kVectorBlock] < cut) continue;  // a sum is at least its largest term, also when rounded
    for (int32_t i = begin; i < block_end(begin, n); ++i) {
      if (weights[i] >= cut) candidates[num++] = {logits[i], weights[i], i};
    }
  }
  return num;
}

Candidate kth_most_likely(Candidate* candidates, int32_t n, int32_t k) {
  std::nth_element(candidates, candidates + k - 1, candidates + n, more_likely);
  return candidates[k - 1];
}

// Halves the range that holds the set's end; nth_element is linear, so all halvings together are.
//
//   [0 ... begin)  in the set, weights add up to sum < target
//   [begin ... end)  holds the set's last candidate
//   [end ... n)  outside
Candidate last_reaching(Candidate* candidates, int32_t n, double target) {
  int32_t begin = 0;
  int32_t end = n;
  double sum = 0;
  while (end - begin > 1) {
    const int32_t middle = begin + (end - begin) / 2;
    std::nth_element(candidates + begin, candidates + middle, candidates + end, more_likely);
    double upper = 0;
    for (int32_t i = begin; i < middle; ++i) upper += candidates[i].weight;
    if (sum + upper >= target) {
      end = middle;
    } else {
      sum += upper;
      begin = middle;
    }
  }
  return candidates[begin];
}

}  // namespace octavo
