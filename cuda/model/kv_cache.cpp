#include "model/kv_cache.h"

#include <cmath>

#include "arch/error.h"
#include "kv/pages.h"
#include "model/checked_size.h"

namespace octavo {
namespace {

octavo_kv_shape make_shape(const octavo_model_config& model, const octavo_engine_config& config) {
  const octavo_kv_shape shape = {config.kv_dtype,    config.page_size, config.num_pages,
                                 model.num_kv_heads, model.head_dim,   0};
  check_kv_shape(shape);
  return shape;
}

void check_scales(const octavo_model_config& model, const float* scales) {
  const int64_t per_layer = int64_t{2} * model.num_kv_heads;
  for (int64_t i = 0; i < model.num_layers * per_layer; ++i) {
    if (std::isfinite(scales[i]) && scales[i] > 0) continue;
    fail(OCTAVO_INVALID_ARGUMENT, "%s scale of layer %lld, kv head %lld must be finite and above 0, found %g",
         i % per_layer < model.num_kv_heads ? "K" : "V", static_cast<long long>(i / per_layer),
         static_cast<long long>(i % model.num_kv_heads), scales[i]);
  }
}

}  // namespace

uint64_t KvCache::size_bytes(const octavo_model_config& model, const octavo_engine_config& config) {
  const uint64_t page_bytes = static_cast<uint64_t>(kv_layer_page_bytes(make_shape(model, config)));
  return checked_product("the KV cache", {static_cast<uint64_t>(model.num_layers),
                                          static_cast<uint64_t>(config.num_pages), page_bytes});
}

KvCache::KvCache(const octavo_model_config& model, const octavo_engine_config& config, const float* scales)
    : shape_(make_shape(model, config)),
      layer_bytes_(kv_layer_page_bytes(shape_) * config.num_pages),
      pages_(size_bytes(model, config)) {
  if (scales == nullptr) return;
  check_scales(model, scales);
  scales_.assign(scales, scales + int64_t{2} * model.num_layers * model.num_kv_heads);
}

const float* KvCache::layer_scales(int32_t layer) const {
  return scales_.empty() ? nullptr : scales_.data() + int64_t{2} * layer * shape_.num_kv_heads;
}

}  // namespace octavo
