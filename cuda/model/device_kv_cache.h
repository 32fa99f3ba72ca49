// The KV pages of all layers in a GPU's memory, and their scales.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "arch/gpu_memory.h"
#include "kv/append.h"
#include "model/device_kv_histograms.h"
#include "model/kv_cache_config.h"
#include "model/page_layout.h"
#include "octavo.h"

namespace octavo {

class DeviceKvCache {
 public:
  // values are the host's. Throws Error for a shape, scale or mean out of range and when the device has not enough memory.
  // Pages are zero.
  DeviceKvCache(const octavo_model_config& model, const std::vector<octavo_layer_config>& layers,
                const octavo_engine_config& config, const KvValues& values);

  const octavo_kv_shape& layer_shape(int32_t kv_index, int32_t layer) const {
    return layout_.layer_shape(kv_index, layer);
  }
  uint8_t* layer_pages(int32_t kv_index, int32_t layer) const {
    return pages_.as<uint8_t>() + layout_.layer_offset(kv_index, layer);
  }
  // All layers of a page: page_bytes() bytes.
  uint8_t* page(int32_t page) const { return pages_.as<uint8_t>() + page * page_bytes(); }
  int64_t page_bytes() const { return layout_.page_bytes(); }
  // Device [2][num_kv_heads], or nullptr = 1 or a format that takes none.
  float* layer_scales(int32_t kv_index, int32_t layer) const;

  // The same whatever stores the layer; nullptr where all are 1.
  float* all_layer_scales(int32_t layer) const;
  // Whether a kv_index stores the layer with scales from outside.
  bool takes_scales_in(int32_t layer) const { return layout_.takes_scales(layer); }

  // Device [num_kv_heads][head_dim], or nullptr = 0.
  const float* layer_k_mean(int32_t kv_index, int32_t layer) const;
  // Whether a kv_index stores the layer's K less its mean.
  bool has_k_mean(int32_t layer) const { return has_mean_[static_cast<size_t>(layer)]; }

  // How far octavo_engine_config.calculate_kv_scales has come.
  const CalculatedScales& calculated() const { return calculated_; }
  // Device [2]: the largest magnitudes of a layer's K and V that steps of calculate_kv_scales have seen.
  float* layer_absmax(int32_t layer) const { return absmax_.as<float>() + int64_t{2} * layer; }
  // A step is enqueued.
  void end_step() { calculated_.end_step(); }
  // Sets the scales once more, and for good, once the stream's work so far is done. Throws Error where there is nothing to
  // set.
  void freeze_scales(GpuStream stream);
  // All scales, 1 where none are set, once the stream's work so far is done: host [num_layers][2][num_kv_heads].
  void copy_scales(float* scales, GpuStream stream) const;

  // Device [2][num_kv_heads], which appends add to, or nullptr where nothing is counted.
  KvStatsRow* layer_stats(int32_t layer) const;
  // All rows, once the stream's work so far is done: host [num_layers][2][num_kv_heads][4] as octavo_engine_kv_stats has
  // them. Something must be counted.
  void copy_stats(double* stats, GpuStream stream) const;

  // Of all bytes of a page, once the stream's work so far is done.
  uint64_t page_checksum(int32_t page, GpuStream stream) const;

  // nullptr where there are none.
  DeviceKvHistograms* histograms() const { return histograms_.get(); }

  // Makes all pages and counts zero again.
  void clear(GpuStream stream);

 private:
  PageLayout layout_;
  GpuMemory pages_;
  GpuMemory scales_;  // f32[num_scales_]; empty = 1
  size_t num_scales_;
  GpuMemory absmax_;  // f32[num_layers][2] for calculate_kv_scales, else empty
  GpuMemory checksum_;  // u64
  GpuMemory stats_;     // KvStatsRow[num_scales_], or empty: not counted
  std::unique_ptr<DeviceKvHistograms> histograms_;  // nullptr: not counted
  GpuMemory k_mean_;  // f32[num_layers][num_kv_heads][head_dim] or empty
  std::vector<bool> has_mean_;
  CalculatedScales calculated_;
};

}  // namespace octavo
