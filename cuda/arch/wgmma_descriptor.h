// How wgmma is told where an operand lies in shared memory. Host code reads it too: tests/cuda.
//
// Operands are made of blocks of 8 rows x 128 bytes, 1024 bytes aligned, whose 16-byte chunk c of row r lies at c ^ r: the
// halves of a granule's column block (kv/granule_address.h).
//
//   K-major  (rows = queries or keys):      8 rows x 64 dims a block. The next 8 rows lie row_stride further; a step of 16
//                                           dims is 32 bytes further inside the block
//   MN-major (rows = keys, columns = dims): 8 keys x 64 dims a block. The next 8 keys lie row_stride further, the next 64
//                                           dims column_stride
#pragma once

#include <cstdint>

namespace octavo {

// Addresses and strides in a descriptor count units of this many bytes.
constexpr uint32_t kDescriptorUnit = 16;

__device__ constexpr uint64_t wgmma_descriptor(uint32_t address, uint32_t row_stride, uint32_t column_stride) {
  constexpr uint64_t kSwizzle128 = 1ull << 62;
  return kSwizzle128 | (static_cast<uint64_t>(row_stride / kDescriptorUnit) << 32) |
         (static_cast<uint64_t>(column_stride / kDescriptorUnit) << 16) | ((address & 0x3FFFF) / kDescriptorUnit);
}

}  // namespace octavo
