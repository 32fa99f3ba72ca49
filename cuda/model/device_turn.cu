#include "model/device_turn.h"

namespace octavo {
namespace {

struct LastTurn {
  std::mutex mutex;
  const void* engine = nullptr;  // nullptr: all work is done
  const GpuEvent* done = nullptr;
};

LastTurn& last_turn() {
  static LastTurn last;
  return last;
}

}  // namespace

DeviceTurn::DeviceTurn(const void* engine, GpuStream stream)
    : lock_(last_turn().mutex), engine_(engine), stream_(stream) {
  const LastTurn& last = last_turn();
  if (last.engine != nullptr && last.engine != engine) last.done->hold_back(stream);
}

DeviceTurn::~DeviceTurn() {
  if (lock_.owns_lock()) cudaStreamSynchronize(stream_);
}

void DeviceTurn::end(const GpuEvent& done) {
  last_turn().engine = engine_;
  last_turn().done = &done;
  lock_.unlock();
}

void DeviceTurn::forget(const void* engine) {
  const std::lock_guard<std::mutex> lock(last_turn().mutex);
  if (last_turn().engine == engine) last_turn().engine = nullptr;
}

}  // namespace octavo
