// The ABI's edge of models, of every build.
#include "arch/error.h"
#include "model/layer_kv_shape.h"
#include "model/model_base.h"

using octavo::fail;
using octavo::guard;

extern "C" octavo_model* octavo_model_create(const octavo_model_config* config, const octavo_layer_config* layers,
                                             const float* inv_freq) {
  octavo_model* model = nullptr;
  guard([&] {
    if (config == nullptr || layers == nullptr || inv_freq == nullptr) {
      fail(OCTAVO_INVALID_ARGUMENT, "config, layers and inv_freq must not be NULL");
    }
    model = new octavo_model{octavo::make_model(*config, layers, inv_freq)};
  });
  return model;
}

extern "C" int32_t octavo_model_add_file(octavo_model* model, const char* path) {
  int32_t index = -1;
  guard([&] {
    if (model == nullptr || path == nullptr) fail(OCTAVO_INVALID_ARGUMENT, "model and path must not be NULL");
    index = model->model->add_file(path);
  });
  return index;
}

extern "C" int32_t octavo_model_load_tensor(octavo_model* model, const octavo_tensor* tensor) {
  return guard([&] {
    if (model == nullptr || tensor == nullptr) fail(OCTAVO_INVALID_ARGUMENT, "model and tensor must not be NULL");
    model->model->load_tensor(*tensor);
  });
}

extern "C" int32_t octavo_model_finish(octavo_model* model) {
  return guard([&] {
    if (model == nullptr) fail(OCTAVO_INVALID_ARGUMENT, "model must not be NULL");
    model->model->finish();
  });
}

extern "C" double octavo_model_weight_bytes(const octavo_model* model) {
  return model == nullptr ? 0 : static_cast<double>(model->model->weight_bytes());
}

extern "C" void octavo_model_close(octavo_model* model) { delete model; }

extern "C" double octavo_kv_page_bytes(const octavo_model* model, int32_t kv_dtype, int32_t page_size) {
  double bytes = 0;
  guard([&] {
    if (model == nullptr) fail(OCTAVO_INVALID_ARGUMENT, "model must not be NULL");
    const octavo_model_config& config = model->model->config();
    for (const octavo_layer_config& layer : model->model->layers()) {
      const octavo_kv_shape shape = octavo::layer_kv_shape(config, layer, kv_dtype, page_size, 1);
      const double layer_bytes = octavo_kv_layer_page_bytes(&shape);
      if (layer_bytes == 0) {
        bytes = 0;
        return;
      }
      bytes += layer_bytes;
    }
  });
  return bytes;
}
