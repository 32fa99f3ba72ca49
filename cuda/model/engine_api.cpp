// The ABI's edge of engines, of every build.
#include "arch/error.h"
#include "kv/checks.h"
#include "model/engine_base.h"

using octavo::check_not_null;
using octavo::fail;
using octavo::guard;

namespace {

void transfer(octavo_engine* engine, const octavo::Transfer& transfer) {
  check_not_null("engine", engine);
  octavo::check_count("num_pages", transfer.num_pages);
  if (transfer.num_pages == 0) return;
  check_not_null("pages", transfer.pages);
  check_not_null("host_pages", transfer.host_pages);
  engine->engine->transfer(transfer);
}

}  // namespace

extern "C" double octavo_engine_scratch_bytes(const octavo_model* model, const octavo_engine_config* config) {
  double bytes = 0;
  guard([&] {
    check_not_null("model", model);
    check_not_null("config", config);
    bytes = octavo::engine_scratch_bytes(*model, *config);
  });
  return bytes;
}

extern "C" octavo_engine* octavo_engine_create(const octavo_model* model, const octavo_engine_config* config,
                                               const float* kv_scales, const float* k_mean) {
  octavo_engine* engine = nullptr;
  guard([&] {
    if (model == nullptr || config == nullptr) fail(OCTAVO_INVALID_ARGUMENT, "model and config must not be NULL");
    engine = new octavo_engine{octavo::open_engine(*model, *config, {kv_scales, k_mean})};
  });
  return engine;
}

extern "C" int32_t octavo_step(octavo_engine* engine, uint8_t* step_buffer, double size_bytes) {
  return guard([&] {
    check_not_null("engine", engine);
    check_not_null("step_buffer", step_buffer);
    engine->engine->step(step_buffer, size_bytes);
  });
}

extern "C" int32_t octavo_step_submit(octavo_engine* engine, uint8_t* step_buffer, double size_bytes) {
  return guard([&] {
    check_not_null("engine", engine);
    check_not_null("step_buffer", step_buffer);
    engine->engine->submit(step_buffer, size_bytes);
  });
}

extern "C" int32_t octavo_step_finish(octavo_engine* engine, uint8_t* step_buffer) {
  return guard([&] {
    check_not_null("engine", engine);
    check_not_null("step_buffer", step_buffer);
    engine->engine->finish(step_buffer);
  });
}

extern "C" int32_t octavo_engine_logits(const octavo_engine* engine, int32_t row, float* logits) {
  return guard([&] {
    check_not_null("engine", engine);
    check_not_null("logits", logits);
    engine->engine->copy_logits(row, logits);
  });
}

extern "C" int32_t octavo_engine_kv_scales(const octavo_engine* engine, float* kv_scales) {
  return guard([&] {
    check_not_null("engine", engine);
    check_not_null("kv_scales", kv_scales);
    engine->engine->copy_kv_scales(kv_scales);
  });
}

extern "C" int32_t octavo_engine_freeze_kv_scales(octavo_engine* engine) {
  return guard([&] {
    check_not_null("engine", engine);
    engine->engine->freeze_kv_scales();
  });
}

extern "C" int32_t octavo_engine_kv_stats(const octavo_engine* engine, double* stats, double* num_tokens) {
  return guard([&] {
    check_not_null("engine", engine);
    check_not_null("stats", stats);
    check_not_null("num_tokens", num_tokens);
    engine->engine->copy_kv_stats(stats, num_tokens);
  });
}

extern "C" int32_t octavo_engine_kv_histograms(const octavo_engine* engine, float* absmax, double* histogram,
                                               double* k_sum) {
  return guard([&] {
    check_not_null("engine", engine);
    check_not_null("absmax", absmax);
    check_not_null("histogram", histogram);
    check_not_null("k_sum", k_sum);
    engine->engine->copy_kv_histograms(absmax, histogram, k_sum);
  });
}

extern "C" int32_t octavo_engine_save_pages(octavo_engine* engine, const int32_t* pages, const int32_t* host_pages,
                                            int32_t num_pages) {
  return guard([&] { transfer(engine, {octavo::TransferDirection::kSave, pages, host_pages, num_pages}); });
}

extern "C" int32_t octavo_engine_restore_pages(octavo_engine* engine, const int32_t* pages, const int32_t* host_pages,
                                               int32_t num_pages) {
  return guard([&] { transfer(engine, {octavo::TransferDirection::kRestore, pages, host_pages, num_pages}); });
}

extern "C" int32_t octavo_engine_transfer_stats(octavo_engine* engine, octavo_transfer_stats* stats) {
  return guard([&] {
    check_not_null("engine", engine);
    check_not_null("stats", stats);
    *stats = engine->engine->transfer_stats();
  });
}

extern "C" int32_t octavo_engine_host_page(octavo_engine* engine, int32_t host_page, uint8_t* bytes,
                                           double size_bytes) {
  return guard([&] {
    check_not_null("engine", engine);
    check_not_null("bytes", bytes);
    engine->engine->copy_host_page(host_page, bytes, size_bytes);
  });
}

extern "C" int32_t octavo_engine_page_checksum(octavo_engine* engine, int32_t page, uint32_t* checksum) {
  return guard([&] {
    check_not_null("engine", engine);
    check_not_null("checksum", checksum);
    const uint64_t value = engine->engine->page_checksum(page);
    checksum[0] = static_cast<uint32_t>(value);
    checksum[1] = static_cast<uint32_t>(value >> 32);
  });
}

extern "C" void octavo_engine_close(octavo_engine* engine) { delete engine; }
