#include "arch/thread_pool.h"

#include <exception>

#include "arch/error.h"

namespace octavo {
namespace {

// About 30 us on current processors: longer than the gaps between operations of a step, shorter than those between steps.
constexpr int kSpins = 1500;

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) : num_threads_(num_threads) {
  try {
    for (int thread = 1; thread < num_threads; ++thread) workers_.emplace_back([this, thread] { work(thread); });
  } catch (const std::exception& error) {
    stop();  // a thread that is not joined would end the process
    fail(OCTAVO_OUT_OF_MEMORY, "cannot start thread %zu of %d: %s", workers_.size() + 2, num_threads, error.what());
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  stopping_ = true;
  loop_.fetch_add(1, std::memory_order_release);
  loop_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::start(int64_t num_tasks, Call call, void* context) {
  call_ = call;
  context_ = context;
  num_tasks_ = num_tasks;
  next_task_.store(0, std::memory_order_relaxed);
  num_busy_.store(num_threads_ - 1, std::memory_order_relaxed);
  loop_.fetch_add(1, std::memory_order_release);
  loop_.notify_all();
  take_tasks(0);
  // Every worker must have left the loop before the next one may change its fields.
  for (int spin = 0; num_busy_.load(std::memory_order_acquire) != 0; ++spin) {
    if (spin < kSpins) {
      relax();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadPool::take_tasks(int thread) {
  for (;;) {
    const int64_t task = next_task_.fetch_add(1, std::memory_order_relaxed);
    if (task >= num_tasks_) return;
    call_(context_, task, thread);
  }
}

void ThreadPool::work(int thread) {
  uint32_t seen = 0;
  for (;;) {
    for (int spin = 0; spin < kSpins && loop_.load(std::memory_order_acquire) == seen; ++spin) relax();
    loop_.wait(seen, std::memory_order_acquire);
    seen = loop_.load(std::memory_order_acquire);
    if (stopping_) return;
    take_tasks(thread);
    num_busy_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace octavo
