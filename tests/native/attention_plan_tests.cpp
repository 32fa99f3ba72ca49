// AttentionPlan takes no memory for calls within its bounds, cuts every unit's splits into runs exactly once, and is as
// new after each layer. Compiled and run by attention_plan_test.ts.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <new>
#include <random>

#include "attn/attention_plan.h"

namespace {
int64_t num_allocations = 0;
}

void* operator new(size_t size) {
  ++num_allocations;
  return std::malloc(size);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace octavo {
namespace {

void require(bool holds, const char* what) {
  if (holds) return;
  std::printf("failed: %s\n", what);
  std::exit(1);
}

// A step at random within the bounds.
struct Step {
  std::vector<int32_t> query_len;
  std::vector<int32_t> seq_len;
  AttentionArgs args = {};

  Step(const AttentionBounds& bounds, int32_t window, std::mt19937& random) {
    const auto draw = [&](int64_t low, int64_t high) {
      return static_cast<int32_t>(std::uniform_int_distribution<int64_t>(low, high)(random));
    };
    const int32_t num_seqs = draw(1, bounds.max_seqs);
    const bool decodes = draw(0, 1) == 0;
    int32_t tokens_left = bounds.max_tokens - num_seqs;
    for (int32_t s = 0; s < num_seqs; ++s) {
      const int32_t more = decodes ? 0 : draw(0, tokens_left);
      tokens_left -= more;
      query_len.push_back(1 + more);
      // Mostly short beside one that is long.
      const int64_t longest = draw(0, 3) == 0 ? bounds.max_seq_len : bounds.max_seq_len / 20;
      seq_len.push_back(std::max(draw(1, longest), query_len.back()));
    }
    args.shape.num_kv_heads = bounds.num_kv_heads;
    args.shape.head_dim = bounds.head_dim;
    args.config.num_seqs = num_seqs;
    args.config.num_q_heads = bounds.num_q_heads;
    args.config.sliding_window = window;
    args.query_len = query_len.data();
    args.seq_len = seq_len.data();
  }
};

// What the threads do for a layer.
void run_layer(AttentionPlan& plan, int64_t num_pairs) {
  std::map<int32_t, int64_t> next_split;
  int64_t pairs = 0;
  int64_t partial_floats = 0;
  for (const AttentionTask& task : plan.tasks()) {
    const AttentionUnit& unit = plan.unit(task.unit);
    if (task.num_splits == 0) {
      require(next_split.count(task.unit) == 0, "a unit done as a whole has no runs");
      pairs += unit.num_rows();
      continue;
    }
    require(task.first_split == next_split[task.unit], "runs follow each other");
    next_split[task.unit] += task.num_splits;
    const bool is_last = next_split[task.unit] == unit.num_splits();
    require(plan.finish_splits(task.unit, task.num_splits) == is_last, "the last run ends its unit");
    if (!is_last) continue;
    pairs += unit.num_rows();
    require(plan.partials_at(task.unit) == partial_floats, "partials lie side by side");
    partial_floats += unit.num_splits() * AttentionPartial::floats(unit.num_rows(), 64);
  }
  require(pairs == num_pairs, "every query and q head is computed once");
  require(partial_floats == plan.partial_floats(), "partials have their memory");
}

void check_plans() {
  std::mt19937 random(1);
  for (const int32_t num_threads : {1, 2, 7, 64}) {
    for (const int32_t num_q_heads : {2, 8, 96}) {
      const AttentionBounds bounds = {num_q_heads, 2, 64, 16, 256, 40'000, num_threads};
      AttentionPlan plan;
      plan.reserve(bounds);
      for (int i = 0; i < 200; ++i) {
        const Step step(bounds, i % 3 == 0 ? 700 : 0, random);
        const int64_t before = num_allocations;
        plan.make(step.args, num_threads);
        require(num_allocations == before, "a plan within the bounds takes no memory");
        require(plan.partial_floats() <= AttentionPlan::max_partial_floats(bounds), "partials stay within the bound");
        int64_t num_tokens = 0;
        for (const int32_t length : step.query_len) num_tokens += length;
        for (int layer = 0; layer < 2; ++layer) run_layer(plan, num_tokens * num_q_heads);
      }
    }
  }
}

}  // namespace
}  // namespace octavo

int main() {
  octavo::check_plans();
  std::printf("all attention plan tests passed\n");
}
