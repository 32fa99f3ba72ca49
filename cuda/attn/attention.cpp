#include "attn/attention.h"

#include "arch/cpu.h"
#include "attn/attention_plan.h"

namespace octavo {
namespace {

// Rows x keys x head_dim, up to 4 us of AVX-512 work, for which calling other threads takes longer than it saves.
constexpr int64_t kAloneWork = 1 << 16;

const AttentionKernel& choose_kernel() {
#if defined(__x86_64__)
  if (isa() >= Isa::kAvx512) return kAttentionAvx512;
  if (isa() >= Isa::kAvx2) return kAttentionAvx2;
#endif
  return kAttentionPortable;
}

}  // namespace

void AttentionScratch::reserve(int32_t num_threads, int32_t head_dim, int64_t partial_floats) {
  const int64_t thread_floats = AttentionWorkspace::floats(head_dim);
  const size_t bytes = static_cast<size_t>(num_threads * thread_floats + partial_floats) * sizeof(float);
  if (memory.size_bytes() < bytes) memory = AlignedBuffer(bytes);
}

void paged_attention(const AttentionArgs& args, AttentionPlan& plan, AttentionScratch& scratch, ThreadPool& threads) {
  static const AttentionKernel& kernel = choose_kernel();
  scratch.reserve(threads.size(), args.shape.head_dim, plan.partial_floats());
  const int64_t thread_floats = AttentionWorkspace::floats(args.shape.head_dim);
  float* partials = scratch.memory.as<float>() + threads.size() * thread_floats;

  const auto run_task = [&](int64_t t, int thread) {
    const AttentionTask task = plan.tasks()[static_cast<size_t>(t)];
    const AttentionUnit& unit = plan.unit(task.unit);
    float* workspace = scratch.memory.as<float>() + thread * thread_floats;
    if (task.num_splits == 0) return kernel.whole(args, unit, workspace);
    float* own = partials + plan.partials_at(task.unit);
    const int64_t rows = unit.num_rows();
    const int32_t head_dim = args.shape.head_dim;
    const int64_t floats = AttentionPartial::floats(rows, head_dim);
    for (int32_t split = task.first_split; split < task.first_split + task.num_splits; ++split) {
      kernel.split(args, unit, unit.first_split() + split, AttentionPartial::at(own + split * floats, rows, head_dim),
                   workspace);
    }
    // The thread that finishes a unit's last split merges them all, in order: it does not matter which thread that is.
    if (plan.finish_splits(task.unit, task.num_splits)) kernel.merge(args, unit, own, workspace);
  };
  const int64_t num_tasks = static_cast<int64_t>(plan.tasks().size());
  if (plan.cost() * args.shape.head_dim <= kAloneWork) {
    for (int64_t t = 0; t < num_tasks; ++t) run_task(t, 0);
  } else {
    threads.run(num_tasks, run_task);
  }
}

}  // namespace octavo
