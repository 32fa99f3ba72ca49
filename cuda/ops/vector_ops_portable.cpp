// The vector ops for every processor's baseline.
#include "ops/vector_ops_isa.h"

namespace octavo {
namespace {

#include "ops/vector_ops.inc"

}  // namespace

const VectorOps& vector_ops_portable() { return kOps; }

}  // namespace octavo
