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

// One split of a unit, or all of it.
struct Task {
  int32_t unit;
  int64_t split;  // -1: all of it
};

// A call's work. Units done as a whole come first, then the splits of the heavy ones, which are smaller: so the threads
// finish together.
struct Plan {
  std::vector<AttentionUnit> units;
  std::vector<Task> tasks;
  std::vector<int32_t> splits_left;  // of each unit
  std::vector<int64_t> partials_at;  // of each unit: offset in floats, or -1
  int64_t partial_floats = 0;

  Plan(const AttentionArgs& args, int32_t num_threads) {
    int64_t first_token = 0;
    for (int32_t seq = 0; seq < args.config.num_seqs; ++seq) {
      add_units(args, seq, first_token, units);
      first_token += args.query_len[seq];
    }
    int64_t total_cost = 0;
    for (const AttentionUnit& unit : units) total_cost += cost(unit);
    std::vector<Task> small;
    for (const AttentionUnit& unit : units) {
      const int32_t index = static_cast<int32_t>(splits_left.size());
      const int64_t splits = unit.num_splits();
      const bool heavy = num_threads > 1 && splits > 1 && cost(unit) > total_cost / (num_threads * kUnitsPerThread);
      splits_left.push_back(static_cast<int32_t>(splits));
      partials_at.push_back(heavy ? partial_floats : -1);
      if (!heavy) {
        tasks.push_back({index, -1});
        continue;
      }
      partial_floats += splits * AttentionPartial::floats(unit.num_rows(), args.shape.head_dim);
      for (int64_t i = 0; i < splits; ++i) small.push_back({index, i});
    }
    tasks.insert(tasks.end(), small.begin(), small.end());
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

  threads.run(static_cast<int64_t>(plan.tasks.size()), [&](int64_t t, int thread) {
    const Task task = plan.tasks[static_cast<size_t>(t)];
    const size_t index = static_cast<size_t>(task.unit);
    const AttentionUnit& unit = plan.units[index];
    float* workspace = scratch.memory.as<float>() + thread * thread_floats;
    if (task.split < 0) return kernel.whole(args, unit, workspace);
    float* own = partials + plan.partials_at[index];
    const int64_t rows = unit.num_rows();
    const int32_t head_dim = args.shape.head_dim;
    kernel.split(args, unit, unit.first_split() + task.split,
                 AttentionPartial::at(own + task.split * AttentionPartial::floats(rows, head_dim), rows, head_dim),
                 workspace);
    // The thread that finishes a unit's last split merges them all, in order: it does not matter which thread that is.
    if (std::atomic_ref(plan.splits_left[index]).fetch_sub(1, std::memory_order_acq_rel) == 1) {
      kernel.merge(args, unit, own, workspace);
    }
  });
}

}  // namespace octavo
