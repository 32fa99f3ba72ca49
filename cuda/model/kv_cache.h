// The KV pages of all layers, in one block of memory, and their scales.
#pragma once

#include <cstdint>
#include <vector>

#include "arch/aligned_buffer.h"
#include "model/kv_cache_config.h"
#include "model/page_layout.h"
#include "octavo.h"

namespace octavo {

class KvCache {
 public:
  // Throws Error for a shape, scale or mean out of range and when there is not enough memory. Fresh pages are zero and
  // take memory as they are written.
  KvCache(const octavo_model_config& model, const std::vector<octavo_layer_config>& layers,
          const octavo_engine_config& config, const KvValues& values);

  int32_t page_size(int32_t kv_index) const { return layout_.layer_shape(kv_index, 0).page_size; }
  const octavo_kv_shape& layer_shape(int32_t kv_index, int32_t layer) const {
    return layout_.layer_shape(kv_index, layer);
  }
  uint8_t* layer_pages(int32_t kv_index, int32_t layer) {
    return pages_.data() + layout_.layer_offset(kv_index, layer);
  }
  // All layers of a page: page_bytes() bytes.
  uint8_t* page(int32_t page) { return pages_.data() + page * page_bytes(); }
  int64_t page_bytes() const { return layout_.page_bytes(); }
  // [2][num_kv_heads], or nullptr = 1 or a format that takes none.
  const float* layer_scales(int32_t kv_index, int32_t layer) const;

  // [num_kv_heads][head_dim], or nullptr = 0.
  const float* layer_k_mean(int32_t kv_index, int32_t layer) const;
  // Whether a kv_index stores the layer's K less its mean.
  bool has_k_mean(int32_t layer) const { return has_mean_[static_cast<size_t>(layer)]; }

  // Whether the layer's scales still come from what is stored (octavo_engine_config.calculate_kv_scales).
  bool calculates_scales(int32_t layer) const;
  // Takes in a step's K and V, before they are appended; in the first step they set the layer's scales. Rows as in
  // kv_append.
  void calculate_layer_scales(int32_t layer, const float* k, const float* v, int64_t stride, int32_t num_tokens);
  // A step has run.
  void end_step() { state_.end_step(); }
  // Sets the scales once more, and for good. Throws Error where there is nothing to set.
  void freeze_scales();
  // All scales, 1 where none are set: [num_layers][2][num_kv_heads].
  void copy_scales(float* scales) const;

 private:
  void set_layer_scales(int32_t layer);

  int32_t num_kv_heads_;
  PageLayout layout_;
  AlignedBuffer pages_;
  std::vector<float> scales_;  // empty = 1
  size_t num_scales_;
  std::vector<float> absmax_;  // [num_layers][2] of what calculate_layer_scales() has seen
  CalculatedScales state_;
  std::vector<float> k_mean_;  // [num_layers][num_kv_heads][head_dim] or empty
  std::vector<bool> has_mean_;
};

}  // namespace octavo
