#include "model/device_kv_cache.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kv/format.h"
#include "kv/page_checksum.h"
#include "model/kv_cache_config.h"

namespace octavo {
namespace {

constexpr int kChecksumThreads = 256;
constexpr int kChecksumBlocks = 64;

struct ChecksumParams {
  const uint64_t* words;
  int64_t num_words;
  unsigned long long* checksum;
};

__global__ void __launch_bounds__(kChecksumThreads) checksum_kernel(const __grid_constant__ ChecksumParams p) {
  uint64_t sum = 0;
  for (int64_t place = blockIdx.x * kChecksumThreads + threadIdx.x; place < p.num_words;
       place += kChecksumBlocks * kChecksumThreads) {
    sum += checksum_share(p.words[place], place);
  }
  atomicAdd(p.checksum, static_cast<unsigned long long>(sum));
}

GpuMemory allocate_pages(uint64_t size_bytes, int32_t num_pages) {
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  OCTAVO_GPU_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
  if (size_bytes > free_bytes) {
    fail(OCTAVO_OUT_OF_MEMORY, "a KV cache of %d pages needs %llu bytes, but %zu of the device's %zu are free", num_pages,
         static_cast<unsigned long long>(size_bytes), free_bytes, total_bytes);
  }
  return GpuMemory(size_bytes);
}

}  // namespace

DeviceKvCache::DeviceKvCache(const octavo_model_config& model, const std::vector<octavo_layer_config>& layers,
                             const octavo_engine_config& config, const KvValues& values)
    : layout_(model, layers, config),
      num_scales_(size_t{2} * static_cast<size_t>(model.num_layers) * static_cast<size_t>(model.num_kv_heads)),
      checksum_(sizeof(uint64_t)),
      has_mean_(layers_with_mean(model, layout_, values.k_mean)),
      calculated_(config) {
  check_kv_scales(model, config, values.scales);
  pages_ = allocate_pages(layout_.size_bytes(), config.num_pages);
  if (config.kv_stats == OCTAVO_KV_STATS_HISTOGRAMS) histograms_ = std::make_unique<DeviceKvHistograms>(model);
  if (config.kv_stats == OCTAVO_KV_STATS_ERRORS) stats_ = GpuMemory(num_scales_ * sizeof(KvStatsRow));
  if (calculated_.is_counting()) {
    absmax_ = GpuMemory(size_t{2} * layers.size() * sizeof(float));
    OCTAVO_GPU_CHECK(cudaMemset(absmax_.as<float>(), 0, absmax_.size_bytes()));
  }
  if (values.k_mean != nullptr) {
    k_mean_ = GpuMemory(num_scales_ / 2 * static_cast<size_t>(model.head_dim) * sizeof(float));
    OCTAVO_GPU_CHECK(
        cudaMemcpy(k_mean_.as<float>(), values.k_mean, k_mean_.size_bytes(), cudaMemcpyHostToDevice));
  }
  if (values.scales == nullptr && !calculated_.is_counting()) return;
  const std::vector<float> ones(num_scales_, 1.0f);
  scales_ = GpuMemory(num_scales_ * sizeof(float));
  OCTAVO_GPU_CHECK(cudaMemcpy(scales_.as<float>(), values.scales == nullptr ? ones.data() : values.scales, scales_.size_bytes(),
                              cudaMemcpyHostToDevice));
}

float* DeviceKvCache::layer_scales(int32_t kv_index, int32_t layer) const {
  if (!takes_scales(layer_shape(kv_index, layer).kv_dtype)) return nullptr;
  return all_layer_scales(layer);
}

float* DeviceKvCache::all_layer_scales(int32_t layer) const {
  if (scales_.size_bytes() == 0) return nullptr;
  return scales_.as<float>() + int64_t{2} * layer * layer_shape(0, layer).num_kv_heads;
}

const float* DeviceKvCache::layer_k_mean(int32_t kv_index, int32_t layer) const {
  const octavo_kv_shape& shape = layer_shape(kv_index, layer);
  if (!has_k_mean(layer) || !kv_format(shape.kv_dtype).is_rotated) return nullptr;
  return k_mean_.as<float>() + int64_t{layer} * shape.num_kv_heads * shape.head_dim;
}

void DeviceKvCache::copy_scales(float* scales, GpuStream stream) const {
  if (scales_.size_bytes() == 0) {
    std::fill_n(scales, num_scales_, 1.0f);
    return;
  }
  OCTAVO_GPU_CHECK(
      cudaMemcpyAsync(scales, scales_.as<float>(), scales_.size_bytes(), cudaMemcpyDeviceToHost, stream));
  OCTAVO_GPU_CHECK(cudaStreamSynchronize(stream));
}

void DeviceKvCache::freeze_scales(GpuStream stream) {
  calculated_.check_freeze();
  std::vector<float> absmax(absmax_.size_bytes() / sizeof(float));
  std::vector<float> scales(num_scales_);
  OCTAVO_GPU_CHECK(
      cudaMemcpyAsync(absmax.data(), absmax_.as<float>(), absmax_.size_bytes(), cudaMemcpyDeviceToHost, stream));
  copy_scales(scales.data(), stream);
  const size_t heads = num_scales_ / absmax.size();
  for (size_t row = 0; row < absmax.size(); ++row) {
    if (!layout_.takes_scales(static_cast<int32_t>(row / 2))) continue;
    std::fill_n(scales.data() + row * heads, heads, calculated_scale(absmax[row], static_cast<int32_t>(row % 2)));
  }
  OCTAVO_GPU_CHECK(
      cudaMemcpyAsync(scales_.as<float>(), scales.data(), scales_.size_bytes(), cudaMemcpyHostToDevice, stream));
  OCTAVO_GPU_CHECK(cudaStreamSynchronize(stream));
  calculated_.freeze();
}

KvStatsRow* DeviceKvCache::layer_stats(int32_t layer) const {
  if (stats_.size_bytes() == 0) return nullptr;
  return stats_.as<KvStatsRow>() + int64_t{2} * layer * layer_shape(0, layer).num_kv_heads;
}

void DeviceKvCache::copy_stats(double* stats, GpuStream stream) const {
  std::vector<KvStatsRow> rows(num_scales_);
  OCTAVO_GPU_CHECK(
      cudaMemcpyAsync(rows.data(), stats_.as<KvStatsRow>(), stats_.size_bytes(), cudaMemcpyDeviceToHost, stream));
  OCTAVO_GPU_CHECK(cudaStreamSynchronize(stream));
  for (const KvStatsRow& row : rows) {
    float absmax = 0;
    std::memcpy(&absmax, &row.absmax_bits, sizeof absmax);
    *stats++ = static_cast<double>(absmax);
    *stats++ = static_cast<double>(row.num_saturated);
    *stats++ = row.square_sum;
    *stats++ = row.error_sum;
  }
}

uint64_t DeviceKvCache::page_checksum(int32_t page_id, GpuStream stream) const {
  uint64_t checksum = 0;
  OCTAVO_GPU_CHECK(cudaMemsetAsync(checksum_.as<uint8_t>(), 0, sizeof checksum, stream));
  const ChecksumParams params = {reinterpret_cast<const uint64_t*>(page(page_id)), page_bytes() / 8,
                                 checksum_.as<unsigned long long>()};
  gpu_launch(checksum_kernel, kChecksumBlocks, kChecksumThreads, 0, stream, false, params);
  OCTAVO_GPU_CHECK(
      cudaMemcpyAsync(&checksum, checksum_.as<uint8_t>(), sizeof checksum, cudaMemcpyDeviceToHost, stream));
  OCTAVO_GPU_CHECK(cudaStreamSynchronize(stream));
  return checksum;
}

void DeviceKvCache::clear(GpuStream stream) {
  OCTAVO_GPU_CHECK(cudaMemsetAsync(pages_.as<uint8_t>(), 0, pages_.size_bytes(), stream));
  if (stats_.size_bytes() > 0) {
    OCTAVO_GPU_CHECK(cudaMemsetAsync(stats_.as<uint8_t>(), 0, stats_.size_bytes(), stream));
  }
  if (histograms_ != nullptr) histograms_->clear(stream);
}

}  // namespace octavo
