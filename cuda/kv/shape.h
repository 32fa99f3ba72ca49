// What every build asks of a KV shape.
#pragma once

#include <cstdint>

#include "octavo.h"

namespace octavo {

// Bytes of one element of an octavo_kv_dtype; throws Error for an unknown one.
int32_t kv_element_bytes(int32_t kv_dtype);

// Throws Error naming the first field of shape that is out of its range.
void check_kv_shape(const octavo_kv_shape& shape);

}  // namespace octavo
