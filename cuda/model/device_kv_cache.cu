#include "model/device_kv_cache.h"

#include <algorithm>
#include <vector>

#include "kv/format.h"
#include "model/kv_cache_config.h"

namespace octavo {
namespace {

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
                             const octavo_engine_config& config, const float* scales)
    : layout_(model, layers, config),
      num_scales_(size_t{2} * static_cast<size_t>(model.num_layers) * static_cast<size_t>(model.num_kv_heads)),
      calculates_scales_(config.calculate_kv_scales != 0) {
  check_kv_scales(model, config, scales);
  pages_ = allocate_pages(layout_.size_bytes(), config.num_pages);
  if (scales == nullptr && !calculates_scales_) return;
  const std::vector<float> ones(num_scales_, 1.0f);
  scales_ = GpuMemory(num_scales_ * sizeof(float));
  OCTAVO_GPU_CHECK(cudaMemcpy(scales_.as<float>(), scales == nullptr ? ones.data() : scales, scales_.size_bytes(),
                              cudaMemcpyHostToDevice));
}

float* DeviceKvCache::layer_scales(int32_t layer) const {
  const octavo_kv_shape& shape = layer_shape(layer);
  if (scales_.size_bytes() == 0 || has_own_scales(shape.kv_dtype)) return nullptr;
  return scales_.as<float>() + int64_t{2} * layer * shape.num_kv_heads;
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

void DeviceKvCache::clear(GpuStream stream) {
  OCTAVO_GPU_CHECK(cudaMemsetAsync(pages_.as<uint8_t>(), 0, pages_.size_bytes(), stream));
}

}  // namespace octavo
