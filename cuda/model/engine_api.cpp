// The ABI's edge of engines.
#include "model/engine.h"

#include "arch/error.h"
#include "kv/checks.h"

using octavo::check_not_null;
using octavo::fail;
using octavo::guard;

extern "C" double octavo_engine_scratch_bytes(const octavo_model* model, const octavo_engine_config* config) {
  double bytes = 0;
  guard([&] {
    check_not_null("model", model);
    check_not_null("config", config);
    octavo::check_engine_config(*config);
    bytes = static_cast<double>(octavo::Scratch::size_bytes(model->model->config(), *config));
  });
  return bytes;
}

extern "C" octavo_engine* octavo_engine_create(const octavo_model* model, const octavo_engine_config* config,
                                               const float* kv_scales) {
  octavo_engine* engine = nullptr;
  guard([&] {
    if (model == nullptr || config == nullptr) fail(OCTAVO_INVALID_ARGUMENT, "model and config must not be NULL");
    const auto cpu_model = octavo::cpu_model(*model);
    engine = new octavo_engine{cpu_model, octavo::Engine(*cpu_model, *config, kv_scales)};
  });
  return engine;
}

extern "C" int32_t octavo_step(octavo_engine* engine, uint8_t* step_buffer, double size_bytes) {
  return guard([&] {
    if (engine == nullptr || step_buffer == nullptr) {
      fail(OCTAVO_INVALID_ARGUMENT, "engine and step_buffer must not be NULL");
    }
    engine->engine.step(step_buffer, size_bytes);
  });
}

extern "C" int32_t octavo_step_submit(octavo_engine* engine, uint8_t* step_buffer, double size_bytes) {
  return guard([&] {
    check_not_null("engine", engine);
    check_not_null("step_buffer", step_buffer);
    engine->engine.submit(step_buffer, size_bytes);
  });
}

extern "C" int32_t octavo_step_finish(octavo_engine* engine, uint8_t* step_buffer) {
  return guard([&] {
    check_not_null("engine", engine);
    check_not_null("step_buffer", step_buffer);
    engine->engine.finish(step_buffer);
  });
}

extern "C" int32_t octavo_engine_logits(const octavo_engine* engine, int32_t seq_index, float* logits) {
  return guard([&] {
    if (engine == nullptr || logits == nullptr) fail(OCTAVO_INVALID_ARGUMENT, "engine and logits must not be NULL");
    engine->engine.copy_logits(seq_index, logits);
  });
}

extern "C" int32_t octavo_engine_kv_scales(const octavo_engine* engine, float* kv_scales) {
  return guard([&] {
    if (engine == nullptr || kv_scales == nullptr) {
      fail(OCTAVO_INVALID_ARGUMENT, "engine and kv_scales must not be NULL");
    }
    engine->engine.kv().copy_scales(kv_scales);
  });
}

extern "C" void octavo_engine_close(octavo_engine* engine) { delete engine; }
