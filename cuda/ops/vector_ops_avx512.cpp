// The vector ops for AVX-512.
#include "ops/vector_ops_isa.h"

#if defined(__x86_64__)
namespace octavo {
namespace {

#include "ops/vector_ops.inc"

}  // namespace

const VectorOps& vector_ops_avx512() { return kOps; }

}  // namespace octavo
#endif
