// The KV pages of all layers in a GPU's memory, and their scales.
#pragma once

#include <cstdint>
#include <vector>

#include "arch/gpu_memory.h"
#include "model/page_layout.h"
#include "octavo.h"

namespace octavo {

class DeviceKvCache {
 public:
  // scales: host [num_layers][2][num_kv_heads] or nullptr = 1. Throws Error for a shape or scale out of range and when
  // the device has not enough memory. Pages are zero.
  DeviceKvCache(const octavo_model_config& model, const std::vector<octavo_layer_config>& layers,
                const octavo_engine_config& config, const float* scales);

  const octavo_kv_shape& layer_shape(int32_t layer) const { return layout_.layer_shape(layer); }
  uint8_t* layer_pages(int32_t layer) const {
    return pages_.as<uint8_t>() + layout_.layer_offset(layer);
  }
  // Device [2][num_kv_heads], or nullptr = 1 or scales of the format's own.
  float* layer_scales(int32_t layer) const;

  // Whether the next step still has to set scales (octavo_engine_config.calculate_kv_scales).
  bool calculates_scales() const { return calculates_scales_; }
  // From here on the scales stay as they are.
  void freeze_scales() { calculates_scales_ = false; }
  // All scales, 1 where none are set, once the stream's work so far is done: host [num_layers][2][num_kv_heads].
  void copy_scales(float* scales, GpuStream stream) const;

  // Makes all pages zero again.
  void clear(GpuStream stream);

 private:
  PageLayout layout_;
  GpuMemory pages_;
  GpuMemory scales_;  // f32[num_scales_]; empty = 1
  size_t num_scales_;
  bool calculates_scales_;
};

}  // namespace octavo
