// What the GPU benches measure with: median times, random contents, and the card's own read rate.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "arch/gpu.h"

namespace {

using octavo::GpuStream;

__global__ void read_kernel(const uint4* data, int64_t n, uint32_t* sink) {
  uint4 sum = make_uint4(0, 0, 0, 0);
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (; i + 7 * stride < n; i += 8 * stride) {
    uint4 part[8];
#pragma unroll
    for (int k = 0; k < 8; ++k) part[k] = __ldcs(data + i + k * stride);
#pragma unroll
    for (int k = 0; k < 8; ++k) sum.x ^= part[k].x ^ part[k].y ^ part[k].z ^ part[k].w;
  }
  if (sum.x == 0x12345678u) *sink = sum.x;
}

// Random bits of word i, the same in every run.
__device__ inline uint32_t random_word(int64_t i) {
  uint64_t x = static_cast<uint64_t>(i) * 0x9E3779B97F4A7C15ull + 0x1234567;
  x ^= x >> 31;
  x *= 0xBF58476D1CE4E5B9ull;
  x ^= x >> 29;
  return static_cast<uint32_t>(x >> 16);
}

// Median milliseconds of run() over repeats.
inline double time_ms(GpuStream stream, int repeats, const std::function<void()>& run) {
  cudaEvent_t begin, end;
  OCTAVO_GPU_CHECK(cudaEventCreate(&begin));
  OCTAVO_GPU_CHECK(cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = 0; i < repeats + 1; ++i) {
    OCTAVO_GPU_CHECK(cudaEventRecord(begin, stream));
    run();
    OCTAVO_GPU_CHECK(cudaEventRecord(end, stream));
    OCTAVO_GPU_CHECK(cudaEventSynchronize(end));
    float ms = 0;
    OCTAVO_GPU_CHECK(cudaEventElapsedTime(&ms, begin, end));
    if (i > 0) times.push_back(ms);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// TB/s of the best linear read of memory: bytes, at least several times the second-level cache. sink: a word to write to.
inline double measure_read_rate(const uint8_t* memory, int64_t bytes, uint32_t* sink, GpuStream stream) {
  const int sms = octavo::gpu_device().num_sms;
  double best = 0;
  for (int blocks : {2, 4, 8}) {
    for (int threads : {256, 512}) {
      const int64_t chunk = 8ll * blocks * sms * threads;
      const int64_t n = bytes / 16 / chunk * chunk;
      const double ms = time_ms(stream, 5, [&] {
        read_kernel<<<blocks * sms, threads, 0, stream>>>(reinterpret_cast<const uint4*>(memory), n, sink);
      });
      best = std::max(best, static_cast<double>(n) * 16 / ms * 1e-9);
    }
  }
  return best;
}

}  // namespace
