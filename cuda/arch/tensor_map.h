// Tensor maps: how Hopper's copy engine sees a matrix in global memory.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace octavo {

// A box of a tensor, copied at once. Dimension 0 is the contiguous one.
struct TensorBox {
  CUtensorMapDataType type;
  const void* base;     // aligned to 16 bytes
  int rank;             // 2 .. 4
  uint64_t sizes[4];    // elements
  uint64_t strides[3];  // bytes, of dimensions 1 ..; multiples of 16
  uint32_t box[4];      // elements; box[0] takes 128 bytes
};

// With 128-byte swizzle; what lies outside of the tensor is copied as zeros. The driver's function is looked up by name,
// so that the library needs no libcuda to be loaded. Throws Error.
CUtensorMap make_tensor_map(const TensorBox& box);

}  // namespace octavo
