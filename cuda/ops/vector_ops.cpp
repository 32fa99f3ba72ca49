#include "ops/vector_ops.h"

#include "arch/cpu.h"
#include "ops/vector_ops_isa.h"

namespace octavo {

const VectorOps& vector_ops() {
#if defined(__x86_64__)
  if (isa() >= Isa::kAvx512) return vector_ops_avx512();
  if (isa() >= Isa::kAvx2) return vector_ops_avx2();
#endif
  return vector_ops_portable();
}

}  // namespace octavo
