// octavo_matmul: a weight matrix by itself.
#include "arch/cpu.h"
#include "arch/error.h"
#include "gemm/format.h"
#include "gemm/matrix.h"

using octavo::fail;

extern "C" int32_t octavo_matmul(int32_t dtype, const uint8_t* w, double weight_bytes, int32_t rows, int32_t cols,
                                 const float* x, int32_t m, float* y, int32_t num_threads) {
  return octavo::guard([&] {
    if (rows <= 0 || cols <= 0 || m < 0) {
      fail(OCTAVO_INVALID_ARGUMENT, "rows and cols must be positive and m must not be negative, found %d, %d and %d",
           rows, cols, m);
    }
    if (w == nullptr || (m > 0 && (x == nullptr || y == nullptr))) {
      fail(OCTAVO_INVALID_ARGUMENT, "w, x and y must not be NULL");
    }
    // 0: dtype or cols do not fit, which pack() refuses before it reads w.
    const double expected_bytes = static_cast<double>(octavo::tensor_bytes(dtype, rows, cols));
    if (expected_bytes != 0 && weight_bytes != expected_bytes) {
      fail(OCTAVO_INVALID_ARGUMENT, "weights of dtype %d, %d x %d, must have %.0f bytes, found %.0f", dtype, rows, cols,
           expected_bytes, weight_bytes);
    }
    octavo::ThreadPool threads(octavo::resolve_num_threads(num_threads));
    const octavo::Matrix matrix = octavo::Matrix::pack(dtype, w, rows, cols, nullptr, threads);
    matrix.multiply(x, cols, m, y, rows, threads);
  });
}
