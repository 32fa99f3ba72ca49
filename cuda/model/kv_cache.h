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

  // Bytes that the pages of such a cache take.
  static uint64_t size_bytes(const octavo_model_config& model, const octavo_engine_config& config);

 private:
  octavo_kv_shape shape_;
  int64_t layer_bytes_;
  AlignedBuffer pages_;
  std::vector<float> scales_;  // empty = 1
};

}  // namespace octavo
