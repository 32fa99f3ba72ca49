// The vendor's runtime under one set of names. Everything outside arch/ speaks of Gpu*, so that the HIP build compiles
// the same launch code.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "arch/error.h"

#define OCTAVO_GPU_CHECK(call)                                                                     \
  do {                                                                                             \
    const cudaError_t gpu_status = (call);                                                         \
    if (gpu_status != cudaSuccess) ::octavo::gpu_fail(#call, __FILE__, __LINE__, (int)gpu_status); \
  } while (0)

namespace octavo {

using GpuStream = cudaStream_t;

// Throws Error(OCTAVO_DEVICE, or OCTAVO_OUT_OF_MEMORY) naming the call, the place and the runtime's own text.
[[noreturn]] void gpu_fail(const char* call, const char* file, int line, int status);

// What launches need to know of the current device; read once a device.
struct GpuDevice {
  int num_sms;
  int smem_per_block;  // bytes a block may use after opting in
  int compute_major;
  int compute_minor;
};

// The current device's properties. Throws Error(OCTAVO_UNSUPPORTED) without a usable driver or card.
const GpuDevice& gpu_device();

// Launches kernel with one struct of parameters. With overlap, the launch may begin while its predecessor in the
// stream is still running (programmatic dependent launch, compute capability 9.0 on); the kernel must then call
// gpu_wait_for_predecessor() before it touches what any earlier kernel wrote.
template <class Params>
void gpu_launch(void (*kernel)(Params), int num_blocks, int num_threads, int smem_bytes, GpuStream stream, bool overlap,
                const Params& params) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(num_blocks));
  config.blockDim = dim3(static_cast<unsigned>(num_threads));
  config.dynamicSmemBytes = static_cast<size_t>(smem_bytes);
  config.stream = stream;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = overlap && gpu_device().compute_major >= 9 ? 1 : 0;
  OCTAVO_GPU_CHECK(cudaLaunchKernelEx(&config, kernel, params));
}

// Lets kernel use smem_bytes of dynamic shared memory on the current device.
template <class Params>
void gpu_allow_smem(void (*kernel)(Params), int smem_bytes) {
  OCTAVO_GPU_CHECK(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                        cudaFuncAttributeMaxDynamicSharedMemorySize, smem_bytes));
}

}  // namespace octavo
