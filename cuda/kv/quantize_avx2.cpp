// quantize() for the instruction set in this file's name.
#include "kv/quantize_kernels.h"
#include "octavo.h"

#if defined(__x86_64__)
namespace octavo {
#include "kv/quantize.inl"

void quantize_avx2(int32_t code, const float* x, int64_t n, float scale, uint8_t* stored) {
  quantize_any(code, x, n, scale, stored);
}

}  // namespace octavo
#endif
