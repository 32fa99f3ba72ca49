// The vector ops by instruction set, for vector_ops() to choose from.
#pragma once

#include "ops/vector_ops.h"

namespace octavo {

const VectorOps& vector_ops_portable();
#if defined(__x86_64__)
const VectorOps& vector_ops_avx2();
const VectorOps& vector_ops_avx512();
#endif

}  // namespace octavo
