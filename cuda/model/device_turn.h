// The order of all engines' kernels on the card. Blocks of a kernel wait for each other through memory: of two such kernels
// at once, each could hold multiprocessors that the other's blocks need to start.
//
//   engine A   | step 1, done |                  | waits for B | step 2, done |
//   engine B                   | waits for A | step 1, done |
//
// The waits are the streams'; an engine alone has none.
#pragma once

#include <mutex>

#include "arch/gpu_graph.h"

namespace octavo {

// From its construction on until it ends, no other engine of the process enqueues kernels.
class DeviceTurn {
 public:
  // What is put into the engine's stream from now on waits for the other engines' turns.
  DeviceTurn(const void* engine, GpuStream stream);
  // A turn that was not ended waits for its work.
  ~DeviceTurn();
  DeviceTurn(const DeviceTurn&) = delete;
  DeviceTurn& operator=(const DeviceTurn&) = delete;

  // Later turns wait for done, which was recorded behind all of the turn's kernels and which lives until the engine is
  // forgotten or has another turn.
  void end(const GpuEvent& done);

  // To be called before an engine's events go; its work is done.
  static void forget(const void* engine);

 private:
  std::unique_lock<std::mutex> lock_;
  const void* engine_;
  GpuStream stream_;
};

}  // namespace octavo
