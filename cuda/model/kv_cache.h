// The KV pages of all layers: one block of memory, [layer][page], each layer in the granule layout.
#pragma once

#include <cstdint>
#include <vector>

#include "arch/aligned_buffer.h"
#include "octavo.h"

namespace octavo {

class KvCache {
 public:
  // scales: [num_layers][2][num_kv_heads] or nullptr = 1. Throws Error for a shape or scale out of range and when there
  // is not enough memory. Fresh pages are zero and take memory as they are written.
  KvCache(const octavo_model_config& model, const octavo_engine_config& config, const float* scales);

  // Shape of one layer's pages.
  const octavo_kv_shape& shape() const { return shape_; }
  uint8_t* layer_pages(int32_t layer) { return pages_.data() + layer * layer_bytes_; }
  // [2][num_kv_heads], or nullptr = 1.
  const float* layer_scales(int32_t layer) const;

  // Whether the next step still has to set the scales (octavo_engine_config.calculate_kv_scales).
  bool calculates_scales() const { return calculates_scales_; }
  // Sets a layer's scales from the first step's K and V, before they are appended. Rows as in kv_append.
  void calculate_layer_scales(int32_t layer, const float* k, const float* v, int64_t stride, int32_t num_tokens);
  // From here on the scales stay as they are.
  void freeze_scales() { calculates_scales_ = false; }
  // All scales, 1 where none are set: [num_layers][2][num_kv_heads].
  void copy_scales(float* scales) const;

  // Bytes that the pages of such a cache take.
  static uint64_t size_bytes(const octavo_model_config& model, const octavo_engine_config& config);

 private:
  octavo_kv_shape shape_;
  int64_t layer_bytes_;
  AlignedBuffer pages_;
  std::vector<float> scales_;  // empty = 1
  size_t num_scales_;
  bool calculates_scales_;
};

}  // namespace octavo
