// The library with a device that is lost in step number FAULT_AT_STEP: linked with the real library, whose functions
// are found behind the two that stand here. Compiled by nvcc, the loss is a real one, of the GPU's context.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>

#include "octavo.h"

namespace {

int32_t step = 0;

bool fails_now() {
  const char *at = std::getenv("FAULT_AT_STEP");
  return at != nullptr && ++step == std::atoi(at);
}

template <class Function> Function real(const char *name, Function) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

} // namespace

#ifdef __CUDACC__
__global__ void write_nowhere() { *reinterpret_cast<volatile int *>(16) = 1; }

extern "C" int32_t octavo_step_submit(octavo_engine *engine, uint8_t *step_buffer, double size_bytes) {
  if (fails_now()) write_nowhere<<<1, 1>>>();
  return real("octavo_step_submit", octavo_step_submit)(engine, step_buffer, size_bytes);
}
#else
namespace {
bool is_lost = false;
}

extern "C" int32_t octavo_step_finish(octavo_engine *engine, uint8_t *step_buffer) {
  is_lost |= fails_now();
  return is_lost ? OCTAVO_DEVICE : real("octavo_step_finish", octavo_step_finish)(engine, step_buffer);
}

extern "C" int32_t octavo_last_error(char *message, int32_t capacity) {
  if (!is_lost) return real("octavo_last_error", octavo_last_error)(message, capacity);
  return std::snprintf(message, static_cast<size_t>(capacity), "the device was lost");
}
#endif
