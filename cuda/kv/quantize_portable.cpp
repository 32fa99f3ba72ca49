// quantize() for the instruction set in this file's name.
#include "kv/quantize_kernels.h"
#include "octavo.h"

namespace octavo {
#include "kv/quantize.inl"

void quantize_portable(int32_t code, const float* x, int64_t n, float scale, uint8_t* stored) {
  quantize_any(code, x, n, scale, stored);
}

}  // namespace octavo
