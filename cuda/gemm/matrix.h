// Weight matrices: kept quantised as their file has them, repacked once at load for the kernels of this processor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "arch/thread_pool.h"
#include "octavo.h"

namespace octavo {

class Matrix {
 public:
  Matrix() = default;

  // source: rows x cols in dtype's file layout. row_order: source row of each row, or nullptr for 0, 1, 2 ...
  // release, where given, is called while packing with the offset and size in bytes of parts of source that will not be
  // read again, so that a mapped file's memory can go as the packed matrix grows (only without row_order).
  // Throws Error for a dtype that is not offered.
  using Release = std::function<void(uint64_t offset_bytes, uint64_t size_bytes)>;
  static Matrix pack(int32_t dtype, const uint8_t* source, int32_t rows, int32_t cols, const int32_t* row_order,
                     ThreadPool& threads, const Release& release = nullptr);

  int32_t rows() const { return rows_; }
  int32_t cols() const { return cols_; }
  size_t size_bytes() const { return size_bytes_; }

  // out[cols] = row as f32, exactly as its format defines it (used for token embeddings).
  void dequantize_row(int32_t row, float* out) const;

  // y[m][y_stride] = x[m][x_stride] W^T (y_stride >= rows, x_stride >= cols), f32 in and out. A row of y depends, bit
  // for bit, only on its row of x: not on m, nor on the number of threads.
  void multiply(const float* x, int64_t x_stride, int32_t m, float* y, int64_t y_stride, ThreadPool& threads) const;

 private:
  int32_t format_ = 0;  // index in kFormats (gemm/format.h)
  int32_t rows_ = 0;
  int32_t cols_ = 0;
  size_t size_bytes_ = 0;
  std::shared_ptr<uint8_t[]> data_;
};

}  // namespace octavo
