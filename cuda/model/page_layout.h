// Where an engine's KV pages lie: a page's layers stand side by side, so that a page moves as one piece.
//
//   pool   | page 0                      | page 1                      | ...
//   page   | layer 0 | layer 1 | ... |          each layer in the granule layout of its kv_dtype
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
  const octavo_kv_shape& layer_shape(int32_t layer) const { return layers_[static_cast<size_t>(layer)].shape; }
  int64_t layer_offset(int32_t layer) const { return layers_[static_cast<size_t>(layer)].offset_bytes; }

  // Of one page, and of all.
  int64_t page_bytes() const { return page_bytes_; }
  uint64_t size_bytes() const { return size_bytes_; }

 private:
  struct Layer {
    octavo_kv_shape shape;
    int64_t offset_bytes;
  };

  std::vector<Layer> layers_;
  int64_t page_bytes_ = 0;
  uint64_t size_bytes_;
};

}  // namespace octavo
