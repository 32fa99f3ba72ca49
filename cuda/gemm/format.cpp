#include "gemm/format.h"

namespace octavo {

int find_format(int32_t dtype) {
  for (int i = 0; i < kNumFormats; ++i) {
    if (kFormats[i].dtype == dtype) return i;
  }
  return -1;
}

uint64_t tensor_bytes(int32_t dtype, int32_t rows, int32_t cols) {
  if (rows < 0 || cols < 0) return 0;
  if (dtype == OCTAVO_F8_E4M3) return static_cast<uint64_t>(rows) * static_cast<uint64_t>(cols);
  const int index = find_format(dtype);
  if (index < 0 || cols % kFormats[index].block_cols != 0) return 0;
  const uint64_t row_bytes =
      static_cast<uint64_t>(cols / kFormats[index].block_cols) * static_cast<uint64_t>(kFormats[index].block_bytes);
  return row_bytes * static_cast<uint64_t>(rows);
}

}  // namespace octavo
