// The device sampler on an emulated grid, against a sampler that sorts the vocabulary and adds in f64; and its weights
// against the CPU sampler's, bit for bit. host_tests_test.ts compiles and runs it.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "emulated_grid.h"
#include "require.h"

#define __device__

#include "ops/device_sampler_kernel.cuh"

namespace cpu {
constexpr int32_t kVectorBlock = 256;
struct VectorOps {
  void (*rms_norm)(const float*, const float*, int32_t, float, float*);
  void (*add)(float*, const float*, int32_t);
  void (*scale)(float*, int32_t, float);
  void (*rotate)(float*, const float*, const float*, int32_t);
  void (*silu_gate)(float*, const float*, int32_t);
  void (*gelu_tanh_gate)(float*, const float*, int32_t);
  void (*softcap)(float*, int32_t, float);
  void (*block_max)(const float*, int32_t, float*);
  void (*exp_weights)(const float*, int32_t, float, float, float*, float*);
};
#include "ops/vector_ops.inc"
}  // namespace cpu

namespace {

using namespace octavo;

constexpr int kThreads = 64;
constexpr int kBlocks = 3;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

class EmulatedGroup {
 public:
  EmulatedGroup(uint64_t* slots, int rank) : slots_(slots), rank_(rank) {}
  int size() const { return kBlocks; }
  int rank() const { return rank_; }
  uint64_t* own() { return slots_ + (turn_ * kBlocks + rank_) * kSlotWords; }
  const uint64_t* of(int rank) const { return slots_ + (turn_ * kBlocks + rank) * kSlotWords; }
  void turn() { turn_ ^= 1; }
  template <class T>
  static T read(const T* word) {
    return *word;
  }
  void sync() { emulated::wait(emulated::grid->barrier); }

 private:
  uint64_t* slots_;
  int rank_;
  int turn_ = 0;
};

struct Edit {
  int32_t token, count, flags;
  float bias;
};

struct Case {
  std::vector<float> logits;
  SamplingParams params = {1, 1, 0, 1, 0, 0, 0, 0, 0, 0};
  std::vector<Edit> edits;
  int32_t num_logprobs = -1;
  std::vector<uint32_t> mask;  // empty: none
};

struct Result {
  int32_t token;
  float logprob;
  std::vector<int32_t> top_token;
  std::vector<float> top_logprob;
};

constexpr int32_t kMaxLogprobs = 64;

Result run_emulated(const Case& one) {
  const int32_t vocab = static_cast<int32_t>(one.logits.size());
  std::vector<int32_t> token, count, flags;
  std::vector<float> bias;
  for (const Edit& edit : one.edits) {
    token.push_back(edit.token);
    count.push_back(edit.count);
    flags.push_back(edit.flags);
    bias.push_back(edit.bias);
  }
  const StepRow row = {0, 2};
  const int32_t first_index = one.params.sample_index - row.index;
  const int32_t edit_begin[2] = {0, static_cast<int32_t>(one.edits.size())};
  const uint32_t seed[2] = {one.params.seed_low, one.params.seed_high};
  std::vector<uint64_t> slots(2 * kBlocks * kSlotWords, 0xA5A5A5A5A5A5A5A5);
  Result result = {-2, -1, std::vector<int32_t>(kMaxLogprobs, -2), std::vector<float>(kMaxLogprobs, -1.0f)};
  SampleKernelParams p = {};
  p.logits = one.logits.data();
  p.logits_stride = vocab;
  p.vocab_size = vocab;
  p.part_size = ((vocab + kBlocks - 1) / kBlocks + 127) / 128 * 128;
  p.blocks_per_row = kBlocks;
  p.max_logprobs = kMaxLogprobs;
  p.slots = slots.data();
  p.rows = &row;
  p.temperature = &one.params.temperature;
  p.top_k = &one.params.top_k;
  p.top_p = &one.params.top_p;
  p.min_p = &one.params.min_p;
  p.repetition_penalty = &one.params.repetition_penalty;
  p.presence_penalty = &one.params.presence_penalty;
  p.frequency_penalty = &one.params.frequency_penalty;
  p.seed = seed;
  p.sample_index = &first_index;
  p.num_logprobs = &one.num_logprobs;
  p.edit_begin = edit_begin;
  p.edits = {token.data(), count.data(), flags.data(), bias.data(), 0};
  const int32_t num_masks = one.mask.empty() ? 0 : 2;
  const int32_t mask_index = 1;
  std::vector<uint32_t> masks(one.mask.size());  // the first one lets nothing through
  masks.insert(masks.end(), one.mask.begin(), one.mask.end());
  p.num_masks = &num_masks;
  p.mask_index = &mask_index;
  p.masks = masks.data();
  p.mask_words = static_cast<int32_t>(one.mask.size());
  p.sampled = &result.token;
  p.sampled_logprob = &result.logprob;
  p.top_token = result.top_token.data();
  p.top_logprob = result.top_logprob.data();
  std::vector<SamplerShared<kThreads>> shared(kBlocks);
  std::vector<std::vector<float>> parts(kBlocks, std::vector<float>(static_cast<size_t>(p.part_size)));
  emulated::run(kBlocks, kThreads, [&](int block) {
    EmulatedGroup group(slots.data(), block);
    RowSampler<kThreads, EmulatedGroup>(p, 0, group, shared[block], parts[block].data()).run();
  });
  return result;
}

// The edited logits as the definition has them.
std::vector<float> edited_logits(const Case& one) {
  std::vector<float> logits = one.logits;
  for (const Edit& edit : one.edits) {
    logits[edit.token] = edit_logit(logits[edit.token], one.params, edit.count, edit.flags, edit.bias);
  }
  for (float& x : logits) x = clean_logit(x);
  for (size_t i = 0; i < logits.size() && !one.mask.empty(); ++i) {
    if ((one.mask[i / 32] >> (i % 32) & 1) == 0) logits[i] = -kInfinity;
  }
  return logits;
}

void check(const Case& one, const char* name) {
  const Result result = run_emulated(one);
  const std::vector<float> logits = edited_logits(one);
  const int32_t vocab = static_cast<int32_t>(logits.size());
  std::vector<int32_t> order;
  for (int32_t i = 0; i < vocab; ++i) {
    if (logits[i] > -kInfinity) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (order.empty()) {
    REQUIRE(result.token == -1 && result.logprob == 0, "%s: token %d", name, result.token);
    for (int i = 0; i < kMaxLogprobs; ++i) REQUIRE(result.top_token[i] == -1 && result.top_logprob[i] == 0, "%s", name);
    return;
  }
  const float max = logits[order[0]];
  double log_sum = 0;
  for (int32_t i : order) log_sum += std::exp(static_cast<double>(logits[i]) - max);
  log_sum = max + std::log(log_sum);
  const auto agrees = [&](float found, float logit) {
    const double expected = logit - log_sum;
    return max == kInfinity ? std::isnan(found) : std::fabs(found - expected) <= 1e-5 + 1e-6 * std::fabs(expected);
  };
  REQUIRE(result.token >= 0 && result.token < vocab, "%s: token %d", name, result.token);
  REQUIRE(one.num_logprobs < 0 ? result.logprob == 0 : agrees(result.logprob, logits[result.token]),
          "%s: token %d has log-probability %g", name, result.token, result.logprob);
  const int32_t num_top = std::min<int32_t>(std::max(one.num_logprobs, 0), static_cast<int32_t>(order.size()));
  for (int32_t i = 0; i < kMaxLogprobs; ++i) {
    const int32_t expected = i < num_top ? order[i] : -1;
    REQUIRE(result.top_token[i] == expected, "%s: top token %d is %d, not %d", name, i, result.top_token[i], expected);
    REQUIRE(i < num_top ? agrees(result.top_logprob[i], logits[expected]) : result.top_logprob[i] == 0,
            "%s: top log-probability %d is %g", name, i, result.top_logprob[i]);
  }
  const SamplingParams& params = one.params;
  if (params.temperature == 0 || max == kInfinity) {
    REQUIRE(result.token == order[0], "%s: %d is not the most likely %d", name, result.token, order[0]);
    return;
  }
  std::vector<double> weight(static_cast<size_t>(vocab));
  for (int32_t i : order) weight[i] = std::exp((static_cast<double>(logits[i]) - max) / params.temperature);
  size_t kept = order.size();
  if (params.top_k > 0) kept = std::min<size_t>(kept, static_cast<size_t>(params.top_k));
  if (params.top_p < 1) {
    double total = 0, sum = 0;
    for (size_t i = 0; i < kept; ++i) total += weight[order[i]];
    size_t end = 0;
    // A set that ends within a rounding of top_p may be one token longer or shorter: the looser one is checked.
    while (end < kept && sum < (params.top_p + 1e-6) * total) sum += weight[order[end++]];
    kept = end;
  }
  std::vector<uint8_t> may(static_cast<size_t>(vocab));
  for (size_t i = 0; i < kept; ++i) may[order[i]] = weight[order[i]] >= params.min_p * (1 - 1e-6);
  REQUIRE(may[result.token], "%s: token %d was filtered away", name, result.token);
  double total = 0, before = 0;
  for (int32_t i = 0; i < vocab; ++i) {
    if (i == result.token) before = total;
    if (may[i]) total += weight[i];
  }
  const double uniform =
      uniform_draw(params.seed_low, params.seed_high, static_cast<uint32_t>(params.sample_index)) * total;
  const double slack = 3e-6 * total + (params.top_p < 1 || params.min_p > 0 ? weight[order[kept - 1]] : 0);
  REQUIRE(uniform >= before - slack && uniform <= before + weight[result.token] + slack,
          "%s: token %d covers %.9g to %.9g of %.9g, drawn was %.9g", name, result.token, before,
          before + weight[result.token], total, uniform);
}

std::vector<float> random_logits(std::mt19937& random, int kind, int32_t vocab) {
  std::normal_distribution<float> normal;
  std::vector<float> logits(static_cast<size_t>(vocab));
  const float offset = static_cast<float>(random() % 41) - 20.0f;
  for (float& x : logits) {
    switch (kind) {
      case 0: x = offset + 3 * normal(random); break;                                  // a model's
      case 1: x = 0.01f * normal(random); break;                                       // flat
      case 2: x = static_cast<float>(static_cast<int>(random() % 5)) - 2.0f; break;     // ties
      case 3: x = 1.5f; break;                                                         // one value
      case 4: x = std::ldexp(normal(random), static_cast<int>(random() % 250) - 125); break;
      case 5: x = random() % 4 == 0 ? -kInfinity : random() % 4 == 0 ? NAN : normal(random); break;
      case 6: x = random() % 50 == 0 ? normal(random) : -kInfinity; break;
      case 7: x = random() % 2 == 0 ? 0.0f : -0.0f; break;
      default: x = 100 + 20 * normal(random); break;                                   // one token far ahead
    }
  }
  if (kind == 5 && random() % 4 == 0) logits[random() % logits.size()] = kInfinity;
  return logits;
}

SamplingParams random_params(std::mt19937& random, int32_t vocab) {
  const float temperatures[] = {0, 1, 1, 0.7f, 0.1f, 2.5f, 100};
  const float top_ps[] = {1, 1, 0.9f, 0.5f, 0.99999f, 1e-6f};
  const float min_ps[] = {0, 0, 0, 0.1f, 1};
  const int32_t top_ks[] = {0, 0, 1, 5, 50, 300, vocab - 1};
  SamplingParams params = {};
  params.temperature = temperatures[random() % 7];
  params.top_p = top_ps[random() % 6];
  params.min_p = min_ps[random() % 5];
  params.top_k = std::max(top_ks[random() % 7], 0);
  params.repetition_penalty = random() % 2 == 0 ? 1.0f : 1.3f;
  params.presence_penalty = random() % 2 == 0 ? 0.0f : 0.5f;
  params.frequency_penalty = random() % 2 == 0 ? 0.0f : -0.25f;
  params.seed_low = static_cast<uint32_t>(random());
  params.seed_high = static_cast<uint32_t>(random());
  params.sample_index = static_cast<int32_t>(random() % 1000);
  return params;
}

std::vector<Edit> random_edits(std::mt19937& random, int32_t vocab) {
  std::vector<Edit> edits;
  const uint32_t step = 1 + static_cast<uint32_t>(random() % static_cast<uint32_t>(vocab));
  for (int32_t token = static_cast<int32_t>(random() % step); token < vocab; token += static_cast<int32_t>(step)) {
    edits.push_back({token, static_cast<int32_t>(random() % 3), static_cast<int32_t>(random() % 4),
                     random() % 2 == 0 ? 0.0f : static_cast<float>(random() % 200) / 10 - 10});
  }
  return edits;
}

void test_rows() {
  std::mt19937 random(1);
  const int32_t vocabs[] = {1, 2, 31, 127, 128, 129, 383, 385, 1000, 3001};
  for (int round = 0; round < 400; ++round) {
    const int32_t vocab = vocabs[random() % 10];
    Case one;
    const int kind = static_cast<int>(random() % 9);
    one.logits = random_logits(random, kind, vocab);
    one.params = random_params(random, vocab);
    if (random() % 3 == 0) one.edits = random_edits(random, vocab);
    if (random() % 3 == 0) {
      const uint32_t sparse = random() % 2 == 0 ? 0u : ~0u;
      for (int32_t word = 0; word < (vocab + 31) / 32; ++word) {
        one.mask.push_back(static_cast<uint32_t>(random()) | (static_cast<uint32_t>(random()) & sparse));
      }
    }
    const int32_t logprobs[] = {-1, -1, 0, 1, 5, 64};
    one.num_logprobs = logprobs[random() % 6];
    char name[64];
    std::snprintf(name, sizeof name, "round %d, kind %d, vocabulary %d", round, kind, vocab);
    check(one, name);
  }
}

void test_row_without_numbers() {
  for (const float x : {-kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
    Case one;
    one.logits.assign(500, x);
    one.num_logprobs = 3;
    check(one, "no number");
  }
  Case banned;
  banned.logits = {1, -kInfinity, 2, NAN};
  banned.edits = {{0, 0, 2, 0}, {2, 0, 2, 0}};
  check(banned, "all banned");
}

// The log-probability, rank and most likely tokens of a given token, against sorting and f64.
void test_scores() {
  std::mt19937 random(4);
  const int32_t vocabs[] = {1, 2, 31, 128, 385, 3001};
  for (int round = 0; round < 200; ++round) {
    const int32_t vocab = vocabs[random() % 6];
    const std::vector<float> given = random_logits(random, static_cast<int>(random() % 9), vocab);
    const int32_t token = static_cast<int32_t>(random() % static_cast<unsigned>(vocab));
    const int32_t num_top = static_cast<int32_t>(random() % 3) * 8;
    std::vector<uint64_t> slots(2 * kBlocks * kSlotWords, 0xA5A5A5A5A5A5A5A5);
    float logprob = 7;
    int32_t rank = -7;
    std::vector<int32_t> top_token(kMaxLogprobs, -2);
    std::vector<float> top_logprob(kMaxLogprobs, -2.0f);
    SampleKernelParams p = {};
    p.logits = given.data();
    p.logits_stride = vocab;
    p.vocab_size = vocab;
    p.part_size = ((vocab + kBlocks - 1) / kBlocks + 127) / 128 * 128;
    p.blocks_per_row = kBlocks;
    p.max_logprobs = kMaxLogprobs;
    p.slots = slots.data();
    p.score_token = &token;
    p.num_logprobs = &num_top;
    p.sampled_logprob = &logprob;
    p.score_rank = &rank;
    p.top_token = top_token.data();
    p.top_logprob = top_logprob.data();
    std::vector<SamplerShared<kThreads>> shared(kBlocks);
    std::vector<std::vector<float>> parts(kBlocks, std::vector<float>(static_cast<size_t>(p.part_size)));
    emulated::run(kBlocks, kThreads, [&](int block) {
      EmulatedGroup group(slots.data(), block);
      RowSampler<kThreads, EmulatedGroup>(p, 0, group, shared[block], parts[block].data()).score();
    });
    std::vector<float> logits = given;
    for (float& x : logits) x = clean_logit(x);
    std::vector<int32_t> order;
    for (int32_t i = 0; i < vocab; ++i) {
      if (logits[i] > -kInfinity) order.push_back(i);
    }
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
    const float max = order.empty() ? -kInfinity : logits[order[0]];
    double sum = 0;
    for (int32_t i : order) sum += std::exp(static_cast<double>(logits[i]) - max);
    const auto agrees = [&](float found, float logit) {
      if (logit == -kInfinity && max < kInfinity) return found == -kInfinity;
      const double expected = logit - (max + std::log(sum));
      return max == kInfinity ? !(found > -kInfinity) : std::fabs(found - expected) <= 1e-5 + 1e-6 * std::fabs(expected);
    };
    const auto above = [&](float x) { return x > logits[token]; };
    const int32_t expected_rank = 1 + static_cast<int32_t>(std::count_if(logits.begin(), logits.end(), above));
    REQUIRE(rank == expected_rank, "round %d: rank %d, not %d", round, rank, expected_rank);
    REQUIRE(agrees(logprob, logits[token]), "round %d: token %d has log-probability %g", round, token, logprob);
    for (int32_t i = 0; i < kMaxLogprobs; ++i) {
      const int32_t expected = i < num_top && i < static_cast<int32_t>(order.size()) ? order[i] : -1;
      REQUIRE(top_token[i] == expected, "round %d: top token %d is %d, not %d", round, i, top_token[i], expected);
      REQUIRE(expected < 0 ? top_logprob[i] == 0 : agrees(top_logprob[i], logits[expected]), "round %d: %g", round,
              top_logprob[i]);
    }
  }
}

// How often each token is drawn, against its probability.
void test_distribution() {
  Case one;
  for (int i = 0; i < 200; ++i) one.logits.push_back(static_cast<float>(i % 7));
  one.params.top_k = 60;
  std::vector<int> count(200);
  constexpr int kDraws = 1500;
  for (int i = 0; i < kDraws; ++i) {
    one.params.sample_index = i;
    ++count[run_emulated(one).token];
  }
  // Kept: all 28 tokens of logit 6, all 28 of 5 and the first 4 of logit 4.
  double total = 0, chi_square = 0;
  const auto weight = [](int i) { return i % 7 == 6 || i % 7 == 5 || (i % 7 == 4 && i < 28) ? std::exp(i % 7 - 6.0) : 0; };
  for (int i = 0; i < 200; ++i) total += weight(i);
  for (int i = 0; i < 200; ++i) {
    const double expected = kDraws * weight(i) / total;
    REQUIRE(expected > 0 || count[i] == 0, "token %d was drawn", i);
    if (expected > 0) chi_square += (count[i] - expected) * (count[i] - expected) / expected;
  }
  REQUIRE(chi_square < 105, "chi-square %.1f with 59 degrees of freedom", chi_square);  // p = 2e-4
}

void test_weights() {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<float> x(4096), weights(4096), sums(16);
  for (const float temperature : {1.0f, 0.3f, 7.0f}) {
    for (float& one : x) one = 12 * normal(random);
    x[5] = -kInfinity;
    x[6] = NAN;
    float max = -kInfinity;
    for (float one : x) max = one > max ? one : max;
    cpu::exp_weights(x.data(), 4096, max, temperature, weights.data(), sums.data());
    for (int i = 0; i < 4096; ++i) {
      const float found = logit_weight(x[i], max, temperature);
      REQUIRE(float_bits(found) == float_bits(weights[i]), "weight of %g is %g, the CPU's %g", x[i], found, weights[i]);
    }
  }
}

void test_keys() {
  const float ordered[] = {-kInfinity, -3e38f, -1.0f, -1e-45f, 0.0f, 1e-45f, 1.0f, 3e38f, kInfinity};
  for (size_t i = 0; i < std::size(ordered); ++i) {
    REQUIRE(key_logit(logit_key(ordered[i])) == ordered[i], "%g", ordered[i]);
    if (i > 0) REQUIRE(logit_key(ordered[i]) > logit_key(ordered[i - 1]), "%g", ordered[i]);
  }
  REQUIRE(logit_key(-kInfinity) == kLowestKey && logit_key(kInfinity) == kInfinityKey, "infinities");
  REQUIRE(ranked_token(5, 3) > ranked_token(5, 4) && ranked_token(6, 9) > ranked_token(5, 3), "order");
  REQUIRE(ranked_id(ranked_token(5, 3)) == 3 && ranked_key(ranked_token(5, 3)) == 5, "round trip");
}

void test_least_key() {
  std::mt19937 random(3);
  for (int round = 0; round < 500; ++round) {
    const uint32_t width = static_cast<uint32_t>(random()) >> (random() % 32);
    const uint32_t low = static_cast<uint32_t>(random()) % (~width | 1);
    const uint32_t high = low + width < low ? ~0u : low + width;
    const uint32_t answer = low + (high == low ? 0 : static_cast<uint32_t>(random()) % (high - low));
    std::vector<uint32_t> found(32);
    emulated::run(1, 32, [&](int) {
      const unsigned lane = threadIdx.x;
      found[lane] = least_key(low, high, [&](uint32_t key) { return key >= answer; });
    });
    for (uint32_t one : found) REQUIRE(one == answer, "%u in %u .. %u, found %u", answer, low, high, one);
  }
}

}  // namespace

int main() {
  test_keys();
  test_weights();
  test_least_key();
  test_row_without_numbers();
  test_rows();
  test_scores();
  test_distribution();
  std::puts("all host tests passed");
  return 0;
}
