// A pool of threads that runs one loop at a time. Between loops the threads spin briefly (the next operation of a step
// comes within microseconds), then sleep, so that an idle server costs no CPU.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

namespace octavo {

class ThreadPool {
 public:
  // num_threads >= 1 counts the calling thread. Throws Error (OCTAVO_OUT_OF_MEMORY) when the system starts no more.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return num_threads_; }

  // Calls body(task, thread) once for every task in [0, num_tasks), on any thread in any order (thread in
  // [0, size()): for scratch memory), and returns when all are done. body must not throw. One caller at a time.
  template <class Body>
  void run(int64_t num_tasks, Body&& body) {
    if (num_threads_ == 1 || num_tasks <= 1) {
      for (int64_t task = 0; task < num_tasks; ++task) body(task, 0);
      return;
    }
    using Plain = std::remove_reference_t<Body>;
    start(num_tasks, [](void* context, int64_t task, int thread) { (*static_cast<Plain*>(context))(task, thread); },
          const_cast<void*>(static_cast<const void*>(&body)));
  }

 private:
  using Call = void (*)(void* context, int64_t task, int thread);

  void stop();
  void start(int64_t num_tasks, Call call, void* context);
  void take_tasks(int thread);
  void work(int thread);

  const int num_threads_;
  Call call_ = nullptr;
  void* context_ = nullptr;
  int64_t num_tasks_ = 0;
  bool stopping_ = false;
  alignas(64) std::atomic<int64_t> next_task_{0};
  alignas(64) std::atomic<uint32_t> loop_{0};  // raised to start a loop
  alignas(64) std::atomic<int> num_busy_{0};   // workers that have not left the current loop
  std::vector<std::thread> workers_;
};

}  // namespace octavo
