// Owners of memory that a GPU build allocates once and keeps: on the device, and pinned on the host.
#pragma once

#include <cstddef>
#include <utility>

#include "arch/gpu.h"

namespace octavo {

// Device memory of the current device, aligned to 256 bytes. Throws Error (OCTAVO_OUT_OF_MEMORY).
class GpuMemory {
 public:
  GpuMemory() = default;
  explicit GpuMemory(size_t size_bytes) : size_bytes_(size_bytes) {
    if (size_bytes > 0) OCTAVO_GPU_CHECK(cudaMalloc(&data_, size_bytes));
  }
  ~GpuMemory() { cudaFree(data_); }
  GpuMemory(GpuMemory&& other) noexcept { swap(other); }
  GpuMemory& operator=(GpuMemory&& other) noexcept {
    swap(other);
    return *this;
  }

  template <class T = uint8_t>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t size_bytes() const { return size_bytes_; }

 private:
  void swap(GpuMemory& other) {
    std::swap(data_, other.data_);
    std::swap(size_bytes_, other.size_bytes_);
  }

  void* data_ = nullptr;
  size_t size_bytes_ = 0;
};

// Host memory that the device copies from and to without a detour.
class PinnedMemory {
 public:
  PinnedMemory() = default;
  explicit PinnedMemory(size_t size_bytes) {
    if (size_bytes > 0) OCTAVO_GPU_CHECK(cudaMallocHost(&data_, size_bytes));
  }
  ~PinnedMemory() { cudaFreeHost(data_); }
  PinnedMemory(PinnedMemory&& other) noexcept { std::swap(data_, other.data_); }
  PinnedMemory& operator=(PinnedMemory&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }

  template <class T = uint8_t>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

}  // namespace octavo
