#include "attn/attention.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "arch/cpu.h"
#include "attn/attention_kernel.h"

namespace octavo {
namespace {

// A unit whose work is more than this part of a thread's fair share is done split by split, by several threads.
constexpr int64_t kUnitsPerThread = 4;
// A run of splits is this part of a thread's fair share of those that are left.
constexpr int64_t kRunsPerThread = 2;
// Rows x keys x head_dim, up to 4 us of AVX-512 work, for which calling other threads takes longer than it saves.
constexpr int64_t kAloneWork = 1 << 16;

const AttentionKernel& choose_kernel() {
#if defined(__x86_64__)
  if (isa() >= Isa::kAvx512) return kAttentionAvx512;
  if (isa() >= Isa::kAvx2) return kAttentionAvx2;
#endif
  return kAttentionPortable;
}

int64_t cost(const AttentionUnit& unit) { return unit.num_rows() * (unit.last_key() + 1 - unit.first_key); }

// Cuts a sequence into units, the later queries, which see more keys, first.
void add_units(const AttentionArgs& args, int32_t seq, int64_t first_token, std::vector<AttentionUnit>& units) {
  const int32_t group = args.config.num_q_heads / args.shape.num_kv_heads;
  const int32_t heads = std::min(group, kMaxRows);
  const int32_t queries = std::max(1, kMaxRows / heads);
  const int32_t query_len = args.query_len[seq];
  const int64_t start = args.seq_len[seq] - query_len;
  const int64_t window = args.config.sliding_window;
  for (int32_t tile = (query_len - 1) / queries; tile >= 0; --tile) {
    AttentionUnit unit{};
    unit.seq = seq;
    unit.num_queries = std::min(queries, query_len - tile * queries);
    unit.first_token = first_token + tile * queries;
    unit.first_position = start + tile * queries;
    unit.first_key = window > 0 ? std::max<int64_t>(0, unit.first_position - window + 1) : 0;
    for (int32_t kv_head = 0; kv_head < args.shape.num_kv_heads; ++kv_head) {
      unit.kv_head = kv_head;
      for (int32_t head = 0; head < group; head += heads) {
        unit.first_head = kv_head * group + head;
        unit.num_heads = std::min(heads, group - head);
        units.push_back(unit);
      }
    }
  }
}

// Some splits of a unit, one after another, or all of it.
struct Task {
  int32_t unit;
  int32_t first_split;  // counted from the unit's first
  int32_t num_splits;   // 0: all of it, merged at once
};

// A call's work. Units done as a whole come first, then the splits of the heavy ones in runs that grow shorter: so the
// threads finish together, and mostly go on where the memory that they asked for lies.
struct Plan {
  std::vector<AttentionUnit> units;
  std::vector<Task> tasks;
  std::vector<int32_t> splits_left;  // of each unit
  std::vector<int64_t> partials_at;  // of each unit: offset in floats, or -1
  int64_t partial_floats = 0;
  int64_t total_cost = 0;

  Plan(const AttentionArgs& args, int32_t num_threads) {
    int64_t first_token = 0;
    for (int32_t seq = 0; seq < args.config.num_seqs; ++seq) {
      add_units(args, seq, first_token, units);
      first_token += args.query_len[seq];
    }
    for (const AttentionUnit& unit : units) total_cost += cost(unit);
    std::vector<int32_t> heavy;
    int64_t heavy_splits = 0;
    for (const AttentionUnit& unit : units) {
      const int32_t index = static_cast<int32_t>(splits_left.size());
      const int64_t splits = unit.num_splits();
      const bool is_heavy = num_threads > 1 && splits > 1 && cost(unit) > total_cost / (num_threads * kUnitsPerThread);
      splits_left.push_back(static_cast<int32_t>(splits));
      partials_at.push_back(is_heavy ? partial_floats : -1);
      if (!is_heavy) {
        tasks.push_back({index, 0, 0});
        continue;
      }
      partial_floats += splits * AttentionPartial::floats(unit.num_rows(), args.shape.head_dim);
      heavy.push_back(index);
      heavy_splits += splits;
    }
    for (const int32_t index : heavy) {
      const int32_t splits = splits_left[static_cast<size_t>(index)];
      for (int32_t first = 0; first < splits;) {
        const int64_t share = std::max<int64_t>(1, heavy_splits / (num_threads * kRunsPerThread));
        const int32_t run = static_cast<int32_t>(std::min<int64_t>(share, splits - first));
        tasks.push_back({index, first, run});
        first += run;
        heavy_splits -= run;
      }
    }
  }
};

}  // namespace

void paged_attention(const AttentionArgs& args, AttentionScratch& scratch, ThreadPool& threads) {
  static const AttentionKernel& kernel = choose_kernel();
  Plan plan(args, threads.size());
  const int64_t thread_floats = AttentionWorkspace::floats(args.shape.head_dim);
  const size_t bytes = static_cast<size_t>(threads.size() * thread_floats + plan.partial_floats) * sizeof(float);
  if (scratch.memory.size_bytes() < bytes) scratch.memory = AlignedBuffer(bytes);
  float* partials = scratch.memory.as<float>() + threads.size() * thread_floats;

  const auto run_task = [&](int64_t t, int thread) {
    const Task task = plan.tasks[static_cast<size_t>(t)];
    const size_t index = static_cast<size_t>(task.unit);
    const AttentionUnit& unit = plan.units[index];
    float* workspace = scratch.memory.as<float>() + thread * thread_floats;
    if (task.num_splits == 0) return kernel.whole(args, unit, workspace);
    float* own = partials + plan.partials_at[index];
    const int64_t rows = unit.num_rows();
    const int32_t head_dim = args.shape.head_dim;
    const int64_t floats = AttentionPartial::floats(rows, head_dim);
    for (int32_t split = task.first_split; split < task.first_split + task.num_splits; ++split) {
      kernel.split(args, unit, unit.first_split() + split, AttentionPartial::at(own + split * floats, rows, head_dim),
                   workspace);
    }
    // The thread that finishes a unit's last split merges them all, in order: it does not matter which thread that is.
    std::atomic_ref left(plan.splits_left[index]);
    if (left.fetch_sub(task.num_splits, std::memory_order_acq_rel) == task.num_splits) {
      kernel.merge(args, unit, own, workspace);
    }
  };
  const int64_t num_tasks = static_cast<int64_t>(plan.tasks.size());
  if (plan.total_cost * args.shape.head_dim <= kAloneWork) {
    for (int64_t t = 0; t < num_tasks; ++t) run_task(t, 0);
  } else {
    threads.run(num_tasks, run_task);
  }
}

}  // namespace octavo
