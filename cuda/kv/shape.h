// What every build asks of a KV shape.
#pragma once

#include <cstdint>

#include "octavo.h"

namespace octavo {

// Throws Error unless kv_dtype is an octavo_kv_dtype.
void check_kv_dtype(int32_t kv_dtype);

// Throws Error unless kv_dtype is an octavo_kv_dtype without scales of its own.
void check_plain_kv_dtype(int32_t kv_dtype);

// Throws Error naming the first field of shape that is out of its range.
void check_kv_shape(const octavo_kv_shape& shape);

// Bytes of one page of one layer. shape must be valid.
int64_t kv_layer_page_bytes(const octavo_kv_shape& shape);

}  // namespace octavo
