// Owners of the runtime's streams, events and graphs.
#pragma once

#include <utility>

#include "arch/gpu.h"

namespace octavo {

class GpuStreamOwner {
 public:
  GpuStreamOwner() { OCTAVO_GPU_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ~GpuStreamOwner() { cudaStreamDestroy(stream_); }
  GpuStreamOwner(const GpuStreamOwner&) = delete;
  GpuStreamOwner& operator=(const GpuStreamOwner&) = delete;

  GpuStream get() const { return stream_; }
  void wait() const { OCTAVO_GPU_CHECK(cudaStreamSynchronize(stream_)); }

 private:
  GpuStream stream_ = nullptr;
};

class GpuEvent {
 public:
  GpuEvent() { OCTAVO_GPU_CHECK(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }
  ~GpuEvent() { cudaEventDestroy(event_); }
  GpuEvent(const GpuEvent&) = delete;
  GpuEvent& operator=(const GpuEvent&) = delete;

  void record(GpuStream stream) { OCTAVO_GPU_CHECK(cudaEventRecord(event_, stream)); }
  void wait() const { OCTAVO_GPU_CHECK(cudaEventSynchronize(event_)); }
  // Work put into the stream from now on waits for what was recorded.
  void hold_back(GpuStream stream) const { OCTAVO_GPU_CHECK(cudaStreamWaitEvent(stream, event_, 0)); }

 private:
  cudaEvent_t event_ = nullptr;
};

// An event that knows its time.
class GpuTimer {
 public:
  GpuTimer() { OCTAVO_GPU_CHECK(cudaEventCreate(&event_)); }
  ~GpuTimer() { cudaEventDestroy(event_); }
  GpuTimer(const GpuTimer&) = delete;
  GpuTimer& operator=(const GpuTimer&) = delete;

  void record(GpuStream stream) { OCTAVO_GPU_CHECK(cudaEventRecord(event_, stream)); }
  // Work put into the stream from now on waits for what was recorded.
  void hold_back(GpuStream stream) const { OCTAVO_GPU_CHECK(cudaStreamWaitEvent(stream, event_, 0)); }
  bool has_passed() const {
    const cudaError_t status = cudaEventQuery(event_);
    if (status != cudaErrorNotReady) OCTAVO_GPU_CHECK(status);
    return status == cudaSuccess;
  }
  double seconds_since(const GpuTimer& start) const {
    float milliseconds = 0;
    OCTAVO_GPU_CHECK(cudaEventElapsedTime(&milliseconds, start.event_, event_));
    return 1e-3 * static_cast<double>(milliseconds);
  }

 private:
  cudaEvent_t event_ = nullptr;
};

// A captured sequence of kernels, launched as one.
class GpuGraph {
 public:
  // Captures what enqueue() puts into the stream; nothing of it runs.
  template <class Enqueue>
  GpuGraph(GpuStream stream, Enqueue&& enqueue) {
    OCTAVO_GPU_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    cudaGraph_t graph = nullptr;
    try {
      enqueue();
    } catch (...) {
      cudaStreamEndCapture(stream, &graph);
      cudaGraphDestroy(graph);
      throw;
    }
    OCTAVO_GPU_CHECK(cudaStreamEndCapture(stream, &graph));
    const cudaError_t status = cudaGraphInstantiate(&graph_, graph, 0);
    cudaGraphDestroy(graph);
    OCTAVO_GPU_CHECK(status);
    OCTAVO_GPU_CHECK(cudaGraphUpload(graph_, stream));
  }
  ~GpuGraph() { cudaGraphExecDestroy(graph_); }
  GpuGraph(GpuGraph&& other) noexcept { std::swap(graph_, other.graph_); }
  GpuGraph& operator=(GpuGraph&& other) noexcept {
    std::swap(graph_, other.graph_);
    return *this;
  }

  void launch(GpuStream stream) const { OCTAVO_GPU_CHECK(cudaGraphLaunch(graph_, stream)); }

 private:
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace octavo
