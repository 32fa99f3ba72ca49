// The host's single product in GPU builds: not offered, and said so.
#include "arch/error.h"
#include "octavo.h"

namespace {

int32_t refuse(const char* what) {
  return octavo::guard([&] {
    octavo::fail(OCTAVO_UNSUPPORTED,
                 "%s is not offered by the GPU build", what);
  });
}

}  // namespace

extern "C" {

int32_t octavo_matmul(int32_t, const uint8_t*, double, int32_t, int32_t, const float*, int32_t, float*, int32_t) {
  return refuse("octavo_matmul");
}

}  // extern "C"
