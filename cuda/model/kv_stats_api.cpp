// The entries of octavo_kv_stats.h.
#include "octavo_kv_stats.h"

#include "arch/error.h"
#include "kv/checks.h"
#include "model/engine.h"

namespace {

// Every engine of the CPU build is one.
octavo::Engine& cpu_engine(const octavo_engine* engine) {
  octavo::check_not_null("engine", engine);
  return static_cast<octavo::Engine&>(*engine->engine);
}

}  // namespace

extern "C" int32_t octavo_engine_collect_kv_stats(octavo_engine* engine) {
  return octavo::guard([&] { cpu_engine(engine).collect_kv_stats(); });
}

extern "C" int32_t octavo_engine_kv_stats(const octavo_engine* engine, float* absmax, double* histogram) {
  return octavo::guard([&] {
    octavo::check_not_null("absmax", absmax);
    octavo::check_not_null("histogram", histogram);
    const octavo::KvStats* stats = cpu_engine(engine).kv_stats();
    if (stats == nullptr) octavo::fail(OCTAVO_INVALID_ARGUMENT, "the engine collects no KV statistics");
    stats->copy(absmax, histogram);
  });
}
