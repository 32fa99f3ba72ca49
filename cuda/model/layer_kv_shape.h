// The pages of one layer in an engine.
#pragma once

#include "octavo.h"

namespace octavo {

// num_pages pages of page_size tokens in the layer's own kv_dtype, or in the engine's where it has none. Not checked.
inline octavo_kv_shape layer_kv_shape(const octavo_model_config& model, const octavo_layer_config& layer,
                                      int32_t engine_kv_dtype, int32_t page_size, int32_t num_pages) {
  const int32_t kv_dtype = layer.kv_dtype < 0 ? engine_kv_dtype : layer.kv_dtype;
  return {kv_dtype, page_size, num_pages, model.num_kv_heads, model.head_dim, 0};
}

}  // namespace octavo
