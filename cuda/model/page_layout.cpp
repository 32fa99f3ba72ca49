#include "model/page_layout.h"

#include <algorithm>
#include <limits>

#include "arch/error.h"
#include "kv/format.h"
#include "kv/shape.h"
#include "model/checked_size.h"
#include "model/kv_cache_config.h"
#include "model/kv_dtypes.h"
#include "model/layer_kv_shape.h"

namespace octavo {

PageLayout::PageLayout(const octavo_model_config& model, const std::vector<octavo_layer_config>& layers,
                       const octavo_engine_config& config) {
  for (int32_t kv = 0; kv < octavo::num_kv_dtypes(config); ++kv) {
    int64_t end = 0;
    layers_.emplace_back();
    for (const octavo_layer_config& layer : layers) {
      const octavo_kv_shape shape =
          layer_kv_shape(model, layer, kv_dtype_of(config, kv), page_size_of(config, kv), config.num_pages);
      check_kv_shape(shape);
      layers_.back().push_back({shape, end});
      end += kv_layer_page_bytes(shape);
      if (end <= std::numeric_limits<int32_t>::max()) continue;
      fail(OCTAVO_INVALID_ARGUMENT, "a KV page must have at most %d bytes, found %lld or more",
           std::numeric_limits<int32_t>::max(), static_cast<long long>(end));
    }
    page_bytes_ = std::max(page_bytes_, end);
  }
  for (std::vector<Layer>& of_dtype : layers_) {
    for (Layer& layer : of_dtype) layer.shape.page_stride = static_cast<int32_t>(page_bytes_);
  }
  size_bytes_ = checked_product("the KV cache", {static_cast<uint64_t>(page_bytes_),
                                                 static_cast<uint64_t>(config.num_pages)});
}

template <class Test>
bool PageLayout::is_any(int32_t layer, Test test) const {
  return std::any_of(layers_.begin(), layers_.end(), [&](const std::vector<Layer>& of_dtype) {
    return test(of_dtype[static_cast<size_t>(layer)].shape.kv_dtype);
  });
}

bool PageLayout::takes_scales(int32_t layer) const { return is_any(layer, octavo::takes_scales); }

bool PageLayout::is_rotated(int32_t layer) const {
  return is_any(layer, [](int32_t kv_dtype) { return kv_format(kv_dtype).is_rotated; });
}

}  // namespace octavo
