#include <map>
#include <mutex>

#include "arch/gpu.h"

namespace octavo {

void gpu_fail(const char* call, const char* file, int line, int status) {
  const auto code = static_cast<cudaError_t>(status);
  cudaGetLastError();  // clears a launch error, so that the next call does not report it again
  fail(code == cudaErrorMemoryAllocation ? OCTAVO_OUT_OF_MEMORY : OCTAVO_DEVICE, "%s at %s:%d: %s (%s)", call, file,
       line, cudaGetErrorString(code), cudaGetErrorName(code));
}

const GpuDevice& gpu_device() {
  static std::mutex mutex;
  static std::map<int, GpuDevice> devices;
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    cudaGetLastError();
    fail(OCTAVO_UNSUPPORTED, "no usable CUDA device: %s",
         status == cudaSuccess ? "none found" : cudaGetErrorString(status));
  }
  int device = 0;
  OCTAVO_GPU_CHECK(cudaGetDevice(&device));
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = devices.find(device);
  if (found != devices.end()) return found->second;
  GpuDevice about = {};
  const auto read = [device](cudaDeviceAttr attribute, int& value) {
    OCTAVO_GPU_CHECK(cudaDeviceGetAttribute(&value, attribute, device));
  };
  read(cudaDevAttrMultiProcessorCount, about.num_sms);
  read(cudaDevAttrMaxSharedMemoryPerBlockOptin, about.smem_per_block);
  read(cudaDevAttrComputeCapabilityMajor, about.compute_major);
  read(cudaDevAttrComputeCapabilityMinor, about.compute_minor);
  if (about.compute_major < 8) {
    fail(OCTAVO_UNSUPPORTED, "the card has compute capability %d.%d, 8.0 or newer is needed", about.compute_major,
         about.compute_minor);
  }
  return devices.emplace(device, about).first->second;
}

}  // namespace octavo
