// Brings tensors from mapped files to matrices in the device's memory: threads copy the next part of a file to pinned
// memory while the device takes in the last one.
#pragma once

#include <cstdint>
#include <functional>

#include "arch/gpu_memory.h"
#include "arch/thread_pool.h"
#include "gemm/device_convert.h"
#include "model/model_base.h"

namespace octavo {

class DeviceLoader {
 public:
  // num_threads: that copy to pinned memory, the calling one included.
  explicit DeviceLoader(int num_threads);
  ~DeviceLoader();
  DeviceLoader(const DeviceLoader&) = delete;
  DeviceLoader& operator=(const DeviceLoader&) = delete;

  // Enqueues a whole tensor; its file's memory has been read when this returns. FP8 elements that stay FP8 keep their
  // scales. head_dim: of the model, for interleaved heads.
  void load(const CheckedTensor& tensor, const TargetRows& target, int32_t head_dim);

  // Waits until everything has arrived.
  void wait();

 private:
  struct Slot {
    PinnedMemory pinned;
    cudaEvent_t taken = nullptr;  // the device has read pinned
  };

  void load_chunk(const CheckedTensor& tensor, const TargetRows& target, int32_t head_dim, int32_t first_row,
                  int32_t num_rows);
  const uint8_t* stage(const uint8_t* source, size_t size_bytes);
  void load_scales(const CheckedTensor& tensor, float* target);

  ThreadPool threads_;
  cudaStream_t stream_ = nullptr;
  Slot slots_[2];
  int next_slot_ = 0;
  Slot* staged_ = nullptr;
  GpuMemory raw_;     // rows as their file has them
  GpuMemory values_;  // the same as f32
  GpuMemory scales_;  // of FP8 rows that become 16-bit ones
};

}  // namespace octavo
