#include "model/page_layout.h"

#include <limits>

#include "arch/error.h"
#include "kv/shape.h"
#include "model/checked_size.h"
#include "model/layer_kv_shape.h"

namespace octavo {

PageLayout::PageLayout(const octavo_model_config& model, const std::vector<octavo_layer_config>& layers,
                       const octavo_engine_config& config) {
  for (const octavo_layer_config& layer : layers) {
    const octavo_kv_shape shape = layer_kv_shape(model, layer, config.kv_dtype, config.page_size, config.num_pages);
    check_kv_shape(shape);
    layers_.push_back({shape, page_bytes_});
    page_bytes_ += kv_layer_page_bytes(shape);
    if (page_bytes_ <= std::numeric_limits<int32_t>::max()) continue;
    fail(OCTAVO_INVALID_ARGUMENT, "a KV page must have at most %d bytes, found %lld or more",
         std::numeric_limits<int32_t>::max(), static_cast<long long>(page_bytes_));
  }
  for (Layer& layer : layers_) layer.shape.page_stride = static_cast<int32_t>(page_bytes_);
  size_bytes_ = checked_product("the KV cache", {static_cast<uint64_t>(page_bytes_),
                                                 static_cast<uint64_t>(config.num_pages)});
}

}  // namespace octavo
