// Engines and the host's single kernels in GPU builds: not offered yet, and said so by every entry.
#include "arch/error.h"
#include "octavo.h"

namespace {

int32_t refuse(const char* what) {
  return octavo::guard([&] {
    octavo::fail(OCTAVO_UNSUPPORTED,
                 "%s is not offered by the GPU build yet: it has the attention and cache kernels only", what);
  });
}

template <class Handle>
Handle* refuse_handle(const char* what) {
  refuse(what);
  return nullptr;
}

}  // namespace

extern "C" {

double octavo_engine_scratch_bytes(const octavo_model*, const octavo_engine_config*) {
  refuse("octavo_engine_scratch_bytes");
  return 0;
}

octavo_engine* octavo_engine_create(const octavo_model*, const octavo_engine_config*, const float*) {
  return refuse_handle<octavo_engine>("octavo_engine_create");
}

int32_t octavo_step(octavo_engine*, uint8_t*, double) { return refuse("octavo_step"); }
int32_t octavo_step_submit(octavo_engine*, uint8_t*, double) { return refuse("octavo_step_submit"); }
int32_t octavo_step_finish(octavo_engine*, uint8_t*) { return refuse("octavo_step_finish"); }
int32_t octavo_engine_logits(const octavo_engine*, int32_t, float*) { return refuse("octavo_engine_logits"); }
int32_t octavo_engine_kv_scales(const octavo_engine*, float*) { return refuse("octavo_engine_kv_scales"); }
void octavo_engine_close(octavo_engine*) {}

int32_t octavo_matmul(int32_t, const uint8_t*, double, int32_t, int32_t, const float*, int32_t, float*, int32_t) {
  return refuse("octavo_matmul");
}

}  // extern "C"
