#include "model/device_kv_histograms.h"

#include <algorithm>
#include <vector>

namespace octavo {

using Count = unsigned long long;

DeviceKvHistograms::DeviceKvHistograms(const octavo_model_config& model)
    : num_rows_(size_t{2} * static_cast<size_t>(model.num_layers) * static_cast<size_t>(model.num_kv_heads)),
      num_sums_(num_rows_ / 2 * static_cast<size_t>(model.head_dim)),
      num_layers_(model.num_layers),
      absmax_(num_rows_ * sizeof(float)),
      counts_(num_rows_ * OCTAVO_KV_STATS_BINS * sizeof(Count)),
      k_sum_(num_sums_ * sizeof(double)) {}

void DeviceKvHistograms::add(int32_t layer, KvHistogramParams params, GpuStream stream) const {
  const size_t rows = num_rows_ / static_cast<size_t>(num_layers_) * static_cast<size_t>(layer);
  params.absmax = absmax_.as<float>() + rows;
  params.counts = counts_.as<Count>() + rows * OCTAVO_KV_STATS_BINS;
  params.k_sum = k_sum_.as<double>() + num_sums_ / static_cast<size_t>(num_layers_) * static_cast<size_t>(layer);
  count_kv(params, stream, true);
}

void DeviceKvHistograms::copy(float* absmax, double* histogram, double* k_sum, GpuStream stream) const {
  std::vector<Count> counts(num_rows_ * OCTAVO_KV_STATS_BINS);
  const auto read = [&](void* to, const GpuMemory& from) {
    OCTAVO_GPU_CHECK(cudaMemcpyAsync(to, from.as<uint8_t>(), from.size_bytes(), cudaMemcpyDeviceToHost, stream));
  };
  read(absmax, absmax_);
  read(counts.data(), counts_);
  read(k_sum, k_sum_);
  OCTAVO_GPU_CHECK(cudaStreamSynchronize(stream));
  std::transform(counts.begin(), counts.end(), histogram, [](Count count) { return static_cast<double>(count); });
}

void DeviceKvHistograms::clear(GpuStream stream) {
  for (const GpuMemory* memory : {&absmax_, &counts_, &k_sum_}) {
    OCTAVO_GPU_CHECK(cudaMemsetAsync(memory->as<uint8_t>(), 0, memory->size_bytes(), stream));
  }
}

}  // namespace octavo
