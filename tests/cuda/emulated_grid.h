// Runs device code on the host: every thread of a few blocks is a fiber, and barriers, shuffles and votes switch between
// them. One block of kernel threads sees what the device's would, in a fixed order.
#pragma once

#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <ucontext.h>
#include <vector>

namespace emulated {

constexpr size_t kStackBytes = 65536;

struct Barrier {
  int size = 0;
  int arrived = 0;
  int64_t round = 0;
};

struct Warp {
  Barrier barrier;
  uint64_t values[32];
};

struct Block {
  Barrier barrier;
  std::vector<Warp> warps;
};

struct Fiber {
  jmp_buf registers;
  ucontext_t start;
  std::unique_ptr<uint8_t[]> stack;
  unsigned thread;
  Block* block;
  bool started = false;
  bool done = false;
};

struct Grid {
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Block> blocks;
  Barrier barrier;  // of all blocks
  size_t current = 0;
  int running = 0;
  std::function<void(int block)> body;
  ucontext_t finished;
};

inline Grid* grid = nullptr;

inline Fiber& current() { return *grid->fibers[grid->current]; }

inline void enter_current() {
  Fiber& next = current();
  if (next.started) longjmp(next.registers, 1);
  next.started = true;
  setcontext(&next.start);
}

// On to the next fiber that is not done.
inline void switch_fiber() {
  do grid->current = (grid->current + 1) % grid->fibers.size();
  while (current().done);
}

inline void yield() {
  Fiber& self = current();
  switch_fiber();
  if (&current() == &self) {
    std::printf("deadlock: all other threads have ended\n");
    std::exit(1);
  }
  if (setjmp(self.registers) == 0) enter_current();
}

inline void wait(Barrier& barrier) {
  const int64_t round = barrier.round;
  if (++barrier.arrived == barrier.size) {
    barrier.arrived = 0;
    ++barrier.round;
    return;
  }
  for (int64_t turns = 0; barrier.round == round; ++turns) {
    if (turns > 1000000) {
      std::printf("deadlock: a barrier is not reached by all\n");
      std::exit(1);
    }
    yield();
  }
}

inline void run_fiber() {
  Fiber& self = current();
  grid->body(static_cast<int>(self.block - grid->blocks.data()));
  self.done = true;
  if (--grid->running == 0) setcontext(&grid->finished);
  switch_fiber();
  enter_current();
}

inline std::unique_ptr<Fiber> make_fiber(Block& block, int thread) {
  auto fiber = std::make_unique<Fiber>();
  fiber->stack.reset(new uint8_t[kStackBytes]);
  fiber->thread = static_cast<unsigned>(thread);
  fiber->block = &block;
  getcontext(&fiber->start);
  fiber->start.uc_stack.ss_sp = fiber->stack.get();
  fiber->start.uc_stack.ss_size = kStackBytes;
  makecontext(&fiber->start, run_fiber, 0);
  return fiber;
}

// Runs the fibers; comes back when all are done.
inline void run_all(Grid& made) {
  grid = &made;
  volatile bool returned = false;
  getcontext(&made.finished);
  if (!returned) {
    returned = true;
    enter_current();
  }
  grid = nullptr;
}

// body(block) for num_threads threads in each of num_blocks blocks.
inline void run(int num_blocks, int num_threads, std::function<void(int block)> body) {
  Grid made;
  made.body = std::move(body);
  made.blocks.resize(static_cast<size_t>(num_blocks));
  made.barrier.size = num_blocks * num_threads;
  made.running = num_blocks * num_threads;
  for (Block& block : made.blocks) {
    block.barrier.size = num_threads;
    block.warps.resize(static_cast<size_t>(num_threads / 32));
    for (Warp& warp : block.warps) warp.barrier.size = 32;
    for (int thread = 0; thread < num_threads; ++thread) made.fibers.push_back(make_fiber(block, thread));
  }
  run_all(made);
}

// All lanes deposit a value; then take(values) of each.
template <class Take>
auto exchange(uint64_t value, Take take) {
  const unsigned thread = current().thread;
  Warp& warp = current().block->warps[thread / 32];
  warp.values[thread % 32] = value;
  wait(warp.barrier);
  const auto taken = take(warp.values, static_cast<int>(thread % 32));
  wait(warp.barrier);
  return taken;
}

}  // namespace emulated

// --- The device's names ---------------------------------------------------------------------------------------------

struct EmulatedThread {
  struct Number {
    operator unsigned() const { return emulated::current().thread; }
  } x;
};
inline constexpr EmulatedThread threadIdx;

struct float4 {
  float x, y, z, w;
};

inline void __syncthreads() { emulated::wait(emulated::current().block->barrier); }

template <class T>
T __shfl_sync(unsigned, T value, int from) {
  return static_cast<T>(
      emulated::exchange(static_cast<uint64_t>(value), [&](const uint64_t* values, int) { return values[from & 31]; }));
}

template <class T>
T __shfl_up_sync(unsigned, T value, int offset) {
  return static_cast<T>(emulated::exchange(static_cast<uint64_t>(value), [&](const uint64_t* values, int lane) {
    return values[lane >= offset ? lane - offset : lane];
  }));
}

template <class T>
T __shfl_xor_sync(unsigned, T value, int offset) {
  return static_cast<T>(emulated::exchange(static_cast<uint64_t>(value),
                                           [&](const uint64_t* values, int lane) { return values[lane ^ offset]; }));
}

inline unsigned __ballot_sync(unsigned, bool vote) {
  return emulated::exchange(vote ? 1 : 0, [](const uint64_t* values, int) {
    unsigned votes = 0;
    for (int lane = 0; lane < 32; ++lane) votes |= static_cast<unsigned>(values[lane]) << lane;
    return votes;
  });
}

inline int __ffs(int bits) { return __builtin_ffs(bits); }

inline uint32_t atomicAdd(uint32_t* sum, uint32_t value) {
  const uint32_t before = *sum;
  *sum += value;
  return before;
}
