// Matrices that share their input and write their outputs side by side, packed as one where their dtypes allow: Q, K and V
// are then one product of a step instead of three, gate and up one instead of two.
#pragma once

#include <cstdint>
#include <vector>

#include "gemm/matrix.h"

namespace octavo {

// One tensor as it lies in a file.
struct ProjectionSource {
  int32_t dtype;
  const uint8_t* data;
  uint64_t size_bytes;
  int32_t rows;
  std::vector<int32_t> row_order;  // source row of each row; empty: as they are
};

class Projection {
 public:
  Projection() = default;

  // sources: at least one, in the order of their outputs, each rows x cols. Neighbours of one dtype become one matrix.
  static Projection pack(const std::vector<ProjectionSource>& sources, int32_t cols, ThreadPool& threads);

  size_t size_bytes() const;

  // y[m][y_stride]: the outputs of all sources, one after another; otherwise as Matrix::multiply.
  void multiply(const float* x, int64_t x_stride, int32_t m, float* y, int64_t y_stride, ThreadPool& threads) const;

 private:
  std::vector<Matrix> parts_;
};

}  // namespace octavo
