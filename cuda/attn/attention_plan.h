// How the CPU cuts a call of attention into work for its threads. The layers of a step that have a sliding window in
// common have the plan in common.
#pragma once

#include <cstdint>
#include <vector>

#include "attn/attention_kernel.h"

namespace octavo {

// The largest calls that a plan and scratch memory are made for.
struct AttentionBounds {
  int32_t num_q_heads;
  int32_t num_kv_heads;
  int32_t head_dim;
  int32_t max_seqs;
  int32_t max_tokens;   // of all sequences, >= max_seqs
  int64_t max_seq_len;
  int32_t num_threads;
};

// Some splits of a unit, one after another, or all of it.
struct AttentionTask {
  int32_t unit;
  int32_t first_split;  // counted from the unit's first
  int32_t num_splits;   // 0: all of it, merged at once
};

// Units done as a whole come first, then the splits of the heavy ones in runs that grow shorter: so the threads finish
// together, and mostly go on where the memory that they asked for lies.
class AttentionPlan {
 public:
  // Takes the memory for every call within the bounds: make() then takes none.
  void reserve(const AttentionBounds& bounds);

  // Plans for args, of which pages, q and what else depends on the layer are not read.
  void make(const AttentionArgs& args, int32_t num_threads);

  const std::vector<AttentionTask>& tasks() const { return tasks_; }
  const AttentionUnit& unit(int32_t index) const { return units_[static_cast<size_t>(index)]; }
  // Offset in floats of a heavy unit's partials.
  int64_t partials_at(int32_t unit) const { return partials_at_[static_cast<size_t>(unit)]; }
  // Floats of all partials, at most max_partial_floats().
  int64_t partial_floats() const { return partial_floats_; }
  static int64_t max_partial_floats(const AttentionBounds& bounds);
  // Rows x keys of all units.
  int64_t cost() const { return cost_; }
  // Says that so many splits of a heavy unit are done; true: they were its last, and the plan is as new for the next
  // layer. Called by any thread.
  bool finish_splits(int32_t unit, int32_t num_splits);

 private:
  void add_units(const AttentionArgs& args, int32_t seq, int64_t first_token);
  void add_runs(int32_t num_threads);

  std::vector<AttentionUnit> units_;
  std::vector<AttentionTask> tasks_;
  std::vector<int32_t> splits_left_;  // of each unit
  std::vector<int64_t> partials_at_;  // of each unit, or -1
  std::vector<int32_t> heavy_;
  int64_t partial_floats_ = 0;
  int64_t cost_ = 0;
};

}  // namespace octavo
