// DeviceSampler for test_sampling.py, through ctypes: a handle, a step on device tables, and steps timed in a CUDA graph.
#include <cstdint>
#include <vector>

#include "arch/gpu.h"
#include "ops/device_sampler.h"

namespace {

template <class Body>
int32_t guarded(Body&& body) {
  return octavo::guard([&] { body(); });
}

}  // namespace

extern "C" {

__attribute__((visibility("default"))) void* sampler_open(int32_t max_rows, int32_t vocab_size,
                                                          int32_t max_logprobs, int32_t use_clusters) {
  octavo::DeviceSampler* sampler = nullptr;
  guarded([&] {
    sampler = new octavo::DeviceSampler({max_rows, vocab_size, max_logprobs, use_clusters != 0});
  });
  return sampler;
}

__attribute__((visibility("default"))) void sampler_close(void* sampler) {
  delete static_cast<octavo::DeviceSampler*>(sampler);
}

// layout: octavo_step_layout on the host; logits, rows and step_buffer on the device.
__attribute__((visibility("default"))) int32_t sampler_sample(void* sampler, const float* logits, int64_t stride,
                                                              const octavo::StepRow* rows, int32_t num_rows,
                                                              const octavo_step_layout* layout, uint8_t* step_buffer,
                                                              int32_t mask_words) {
  return guarded([&] {
    static_cast<octavo::DeviceSampler*>(sampler)->sample(
        {logits, stride, rows, num_rows, layout, step_buffer, mask_words}, nullptr, true);
    OCTAVO_GPU_CHECK(cudaDeviceSynchronize());
  });
}

// The same for scores first .. first + num_rows - 1.
__attribute__((visibility("default"))) int32_t sampler_score(void* sampler, const float* logits, int64_t stride,
                                                             int32_t first, int32_t num_rows,
                                                             const octavo_step_layout* layout, uint8_t* step_buffer) {
  return guarded([&] {
    static_cast<octavo::DeviceSampler*>(sampler)->score({logits, stride, first, num_rows, layout, step_buffer}, nullptr,
                                                        true);
    OCTAVO_GPU_CHECK(cudaDeviceSynchronize());
  });
}

// Microseconds of one call, from a graph of num_calls calls run num_runs times: num_runs results.
__attribute__((visibility("default"))) int32_t sampler_time(void* sampler, const float* logits, int64_t stride,
                                                            const octavo::StepRow* rows, int32_t num_rows,
                                                            const octavo_step_layout* layout, uint8_t* step_buffer,
                                                            int32_t num_calls, int32_t num_runs,
                                                            float* microseconds) {
  return guarded([&] {
    cudaStream_t stream;
    OCTAVO_GPU_CHECK(cudaStreamCreate(&stream));
    cudaGraph_t graph;
    OCTAVO_GPU_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int32_t i = 0; i < num_calls; ++i) {
      static_cast<octavo::DeviceSampler*>(sampler)->sample({logits, stride, rows, num_rows, layout, step_buffer, 0}, stream, true);
    }
    OCTAVO_GPU_CHECK(cudaStreamEndCapture(stream, &graph));
    cudaGraphExec_t executable;
    OCTAVO_GPU_CHECK(cudaGraphInstantiate(&executable, graph, 0));
    cudaEvent_t begin, end;
    OCTAVO_GPU_CHECK(cudaEventCreate(&begin));
    OCTAVO_GPU_CHECK(cudaEventCreate(&end));
    OCTAVO_GPU_CHECK(cudaGraphLaunch(executable, stream));
    for (int32_t run = 0; run < num_runs; ++run) {
      OCTAVO_GPU_CHECK(cudaEventRecord(begin, stream));
      OCTAVO_GPU_CHECK(cudaGraphLaunch(executable, stream));
      OCTAVO_GPU_CHECK(cudaEventRecord(end, stream));
      OCTAVO_GPU_CHECK(cudaEventSynchronize(end));
      OCTAVO_GPU_CHECK(cudaEventElapsedTime(&microseconds[run], begin, end));
      microseconds[run] *= 1000.0f / static_cast<float>(num_calls);
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    cudaGraphExecDestroy(executable);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
  });
}

}  // extern "C"
