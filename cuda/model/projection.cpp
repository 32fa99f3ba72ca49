#include "model/projection.h"

namespace octavo {
namespace {

bool has_order(const std::vector<ProjectionSource>& sources, size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i) {
    if (!sources[i].row_order.empty()) return true;
  }
  return false;
}

// Packs sources[begin, end), which are of one dtype.
//
//   copy   | rows of source 0 | rows of source 1 | ...      row_order counts through all of them
Matrix pack_joined(const std::vector<ProjectionSource>& sources, size_t begin, size_t end, int32_t cols,
                   ThreadPool& threads) {
  const bool is_ordered = has_order(sources, begin, end);
  std::vector<int32_t> order;
  int32_t rows = 0;
  uint64_t size_bytes = 0;
  for (size_t i = begin; i < end; ++i) {
    const ProjectionSource& source = sources[i];
    for (int32_t row = 0; is_ordered && row < source.rows; ++row) {
      order.push_back(rows + (source.row_order.empty() ? row : source.row_order[static_cast<size_t>(row)]));
    }
    rows += source.rows;
    size_bytes += source.size_bytes;
  }
  const int32_t* row_order = is_ordered ? order.data() : nullptr;
  const int32_t dtype = sources[begin].dtype;
  if (end - begin == 1) return Matrix::pack(dtype, sources[begin].data, rows, cols, row_order, threads);
  std::vector<uint8_t> joined;
  joined.reserve(size_bytes);
  for (size_t i = begin; i < end; ++i) {
    joined.insert(joined.end(), sources[i].data, sources[i].data + sources[i].size_bytes);
  }
  return Matrix::pack(dtype, joined.data(), rows, cols, row_order, threads);
}

}  // namespace

Projection Projection::pack(const std::vector<ProjectionSource>& sources, int32_t cols, ThreadPool& threads) {
  Projection projection;
  for (size_t begin = 0; begin < sources.size();) {
    size_t end = begin + 1;
    while (end < sources.size() && sources[end].dtype == sources[begin].dtype) ++end;
    projection.parts_.push_back(pack_joined(sources, begin, end, cols, threads));
    begin = end;
  }
  return projection;
}

size_t Projection::size_bytes() const {
  size_t bytes = 0;
  for (const Matrix& part : parts_) bytes += part.size_bytes();
  return bytes;
}

void Projection::multiply(const float* x, int64_t x_stride, int32_t m, float* y, int64_t y_stride,
                          ThreadPool& threads) const {
  for (const Matrix& part : parts_) {
    part.multiply(x, x_stride, m, y, y_stride, threads);
    y += part.rows();
  }
}

}  // namespace octavo
