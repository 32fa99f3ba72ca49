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

namespace {

__global__ void probe_kernel() {}

[[noreturn]] void fail_without_device(cudaError_t status) {
  cudaGetLastError();
  int driver = 0;  // 1000 * major + 10 * minor of the newest CUDA version it offers; 0 without a driver
  cudaDriverGetVersion(&driver);
  if (driver == 0) fail(OCTAVO_UNSUPPORTED, "no usable CUDA device: no NVIDIA driver is installed");
  if (driver < CUDART_VERSION / 1000 * 1000) {
    fail(OCTAVO_UNSUPPORTED,
         "no usable CUDA device: the NVIDIA driver is too old, it offers CUDA %d.%d and %d.0 is needed", driver / 1000,
         driver % 1000 / 10, CUDART_VERSION / 1000);
  }
  if (status == cudaSuccess || status == cudaErrorNoDevice) {
    fail(OCTAVO_UNSUPPORTED, "no usable CUDA device: this process sees no NVIDIA GPU (CUDA_VISIBLE_DEVICES may hide it)");
  }
  fail(OCTAVO_UNSUPPORTED, "no usable CUDA device: %s (%s)", cudaGetErrorString(status), cudaGetErrorName(status));
}

// A library may have been built for other cards than this one.
void check_built_for(const GpuDevice& device) {
  cudaFuncAttributes attributes;
  const cudaError_t status = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(probe_kernel));
  if (status == cudaSuccess) return;
  cudaGetLastError();
  if (status == cudaErrorNoKernelImageForDevice) {
    fail(OCTAVO_UNSUPPORTED,
         "no usable CUDA device: the library was not built for this card (compute capability %d.%d); build it with: "
         "deno task build --backend cuda",
         device.compute_major, device.compute_minor);
  }
  fail(OCTAVO_UNSUPPORTED, "no usable CUDA device: %s (%s)", cudaGetErrorString(status), cudaGetErrorName(status));
}

}  // namespace

const GpuDevice& gpu_device() {
  static std::mutex mutex;
  static std::map<int, GpuDevice> devices;
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) fail_without_device(status);
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
    fail(OCTAVO_UNSUPPORTED, "no usable CUDA device: the card has compute capability %d.%d, 8.0 or newer is needed", about.compute_major,
         about.compute_minor);
  }
  check_built_for(about);
  return devices.emplace(device, about).first->second;
}

}  // namespace octavo
