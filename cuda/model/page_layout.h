// Where an engine's KV pages lie: a page's layers stand side by side, so that a page moves as one piece. Pages of all KV
// dtypes have the same bytes; what a dtype does not fill is unused.
//
//   pool                | page 0                        | page 1                        | ...
//   page, as kv_index 0 | layer 0 | layer 1 | ... |   |       each layer in the granule layout of its kv_dtype
//   page, as kv_index 1 | layer 0   | layer 1   | ... |
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "octavo.h"

namespace octavo {

class PageLayout {
 public:
  // Throws Error (OCTAVO_INVALID_ARGUMENT) for a shape out of range.
  PageLayout(const octavo_model_config& model, const std::vector<octavo_layer_config>& layers,
             const octavo_engine_config& config);

  // The layer's pages, the first of which begins layer_offset() into the pool.
  const octavo_kv_shape& layer_shape(int32_t kv_index, int32_t layer) const { return at(kv_index, layer).shape; }
  int64_t layer_offset(int32_t kv_index, int32_t layer) const { return at(kv_index, layer).offset_bytes; }

  int32_t num_kv_dtypes() const { return static_cast<int32_t>(layers_.size()); }
  // Whether a kv_index stores the layer with scales from outside.
  bool takes_scales(int32_t layer) const;

  // Whether a kv_index stores it rotated.
  bool is_rotated(int32_t layer) const;

  // Of one page, and of all.
  int64_t page_bytes() const { return page_bytes_; }
  uint64_t size_bytes() const { return size_bytes_; }

 private:
  struct Layer {
    octavo_kv_shape shape;
    int64_t offset_bytes;
  };

  // Whether a kv_index stores the layer in a kv_dtype that passes the test.
  template <class Test>
  bool is_any(int32_t layer, Test test) const;
  const Layer& at(int32_t kv_index, int32_t layer) const {
    return layers_[static_cast<size_t>(kv_index)][static_cast<size_t>(layer)];
  }

  std::vector<std::vector<Layer>> layers_;  // by kv_index
  int64_t page_bytes_ = 0;
  uint64_t size_bytes_;
};

}  // namespace octavo
