#include "attn/attention_plan.h"

#include <algorithm>
#include <atomic>
#include <cmath>

namespace octavo {
namespace {

// A unit whose work is more than this part of a thread's fair share is done split by split, by several threads.
constexpr int64_t kUnitsPerThread = 4;
// A run of splits is this part of a thread's fair share of those that are left.
constexpr int64_t kRunsPerThread = 2;

int64_t cost_of(const AttentionUnit& unit) { return unit.num_rows() * (unit.last_key() + 1 - unit.first_key); }

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How q heads that share a kv head, and neighbouring queries, make up the rows of units.
struct UnitShape {
  int32_t group;    // q heads of a kv head
  int32_t heads;    // of a unit
  int32_t queries;  // of a unit

  UnitShape(int32_t num_q_heads, int32_t num_kv_heads)
      : group(num_q_heads / num_kv_heads), heads(std::min(group, kMaxRows)), queries(std::max(1, kMaxRows / heads)) {}
};

// Units that have more than 1 / max_heavy_units of the cost.
int64_t max_heavy_units(const AttentionBounds& bounds) { return bounds.num_threads * kUnitsPerThread; }

int64_t max_splits(const AttentionBounds& bounds) { return divide_up(bounds.max_seq_len, kSplitKeys) + 1; }

}  // namespace

void AttentionPlan::reserve(const AttentionBounds& bounds) {
  const UnitShape shape(bounds.num_q_heads, bounds.num_kv_heads);
  const int64_t tiles = bounds.max_tokens / shape.queries + bounds.max_seqs;
  const int64_t max_units = tiles * bounds.num_kv_heads * divide_up(shape.group, shape.heads);
  // Each run takes 1 / (kRunsPerThread * num_threads) of what is left, until that is one split, or ends a unit.
  const int64_t shares = bounds.num_threads * kRunsPerThread;
  const double halvings = std::log(static_cast<double>(max_heavy_units(bounds) * max_splits(bounds)));
  const int64_t max_runs = max_heavy_units(bounds) + shares * (static_cast<int64_t>(halvings) + 2);
  units_.reserve(static_cast<size_t>(max_units));
  splits_left_.reserve(static_cast<size_t>(max_units));
  partials_at_.reserve(static_cast<size_t>(max_units));
  heavy_.reserve(static_cast<size_t>(max_heavy_units(bounds)));
  tasks_.reserve(static_cast<size_t>(max_units + max_runs));
}

int64_t AttentionPlan::max_partial_floats(const AttentionBounds& bounds) {
  return max_heavy_units(bounds) * max_splits(bounds) * AttentionPartial::floats(kMaxRows, bounds.head_dim);
}

void AttentionPlan::make(const AttentionArgs& args, int32_t num_threads) {
  units_.clear();
  tasks_.clear();
  splits_left_.clear();
  partials_at_.clear();
  heavy_.clear();
  partial_floats_ = 0;
  cost_ = 0;
  int64_t first_token = 0;
  for (int32_t seq = 0; seq < args.config.num_seqs; ++seq) {
    add_units(args, seq, first_token);
    first_token += args.query_len[seq];
  }
  for (const AttentionUnit& unit : units_) cost_ += cost_of(unit);
  for (const AttentionUnit& unit : units_) {
    const int32_t index = static_cast<int32_t>(splits_left_.size());
    const int64_t splits = unit.num_splits();
    const bool is_heavy = num_threads > 1 && splits > 1 && cost_of(unit) > cost_ / (num_threads * kUnitsPerThread);
    splits_left_.push_back(static_cast<int32_t>(splits));
    partials_at_.push_back(is_heavy ? partial_floats_ : -1);
    if (is_heavy) {
      partial_floats_ += splits * AttentionPartial::floats(unit.num_rows(), args.shape.head_dim);
      heavy_.push_back(index);
    } else {
      tasks_.push_back({index, 0, 0});
    }
  }
  add_runs(num_threads);
}

// Cuts a sequence into units, the later queries, which see more keys, first.
void AttentionPlan::add_units(const AttentionArgs& args, int32_t seq, int64_t first_token) {
  const UnitShape shape(args.config.num_q_heads, args.shape.num_kv_heads);
  const int32_t query_len = args.query_len[seq];
  const int64_t start = args.seq_len[seq] - query_len;
  const int64_t window = args.config.sliding_window;
  for (int32_t tile = (query_len - 1) / shape.queries; tile >= 0; --tile) {
    AttentionUnit unit{};
    unit.seq = seq;
    unit.num_queries = std::min(shape.queries, query_len - tile * shape.queries);
    unit.first_token = first_token + tile * shape.queries;
    unit.first_position = start + tile * shape.queries;
    unit.first_key = window > 0 ? std::max<int64_t>(0, unit.first_position - window + 1) : 0;
    for (int32_t kv_head = 0; kv_head < args.shape.num_kv_heads; ++kv_head) {
      unit.kv_head = kv_head;
      for (int32_t head = 0; head < shape.group; head += shape.heads) {
        unit.first_head = kv_head * shape.group + head;
        unit.num_heads = std::min(shape.heads, shape.group - head);
        units_.push_back(unit);
      }
    }
  }
}

void AttentionPlan::add_runs(int32_t num_threads) {
  int64_t splits_left = 0;
  for (const int32_t index : heavy_) splits_left += splits_left_[static_cast<size_t>(index)];
  for (const int32_t index : heavy_) {
    const int32_t splits = splits_left_[static_cast<size_t>(index)];
    for (int32_t first = 0; first < splits;) {
      const int64_t share = std::max<int64_t>(1, splits_left / (num_threads * kRunsPerThread));
      const int32_t run = static_cast<int32_t>(std::min<int64_t>(share, splits - first));
      tasks_.push_back({index, first, run});
      first += run;
      splits_left -= run;
    }
  }
}

bool AttentionPlan::finish_splits(int32_t unit, int32_t num_splits) {
  int32_t& count = splits_left_[static_cast<size_t>(unit)];
  std::atomic_ref left(count);
  if (left.fetch_sub(num_splits, std::memory_order_acq_rel) != num_splits) return false;
  left.store(static_cast<int32_t>(units_[static_cast<size_t>(unit)].num_splits()), std::memory_order_relaxed);
  return true;
}

}  // namespace octavo
