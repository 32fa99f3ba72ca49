// The products of many tokens, by cuBLASLt: y (+)= x W^T, 16-bit operands or E4M3 with a scale for each row of W and
// each token.
#pragma once

#include <memory>
#include <string>

#include "gemm/device_matmul.h"

namespace octavo {

// y[m][rows], or += where add.
struct LibraryProduct {
  const void* w;
  const float* row_scales;  // E4M3 only
  const void* x;
  const float* x_scales;  // E4M3 only
  void* y;
  int64_t x_stride;
  int64_t y_stride;
  int32_t rows;
  int32_t cols;
  int32_t m;
  int32_t dtype;  // of W and x
  int32_t y_dtype;
  bool add;
};

// What products are tried with. Weights of a matrix are taken from all of w, in turn, so that they come from memory.
struct LibraryMemory {
  size_t w_bytes;  // at LibraryProduct::w
  void* workspace;
};

class LibraryMatmul {
 public:
  // Without a usable cuBLASLt is_usable() is false; note() says why.
  explicit LibraryMatmul(size_t workspace_bytes);
  ~LibraryMatmul();
  LibraryMatmul(const LibraryMatmul&) = delete;
  LibraryMatmul& operator=(const LibraryMatmul&) = delete;

  bool is_usable() const;
  const std::string& note() const;

  // Chooses algorithms for all m up to max_m (product.m is not read): the heuristic's first, or another that is at least
  // 4 % faster on the memory given. All code is then on the device. False: the library does not offer this product.
  bool prepare(const LibraryProduct& product, int32_t max_m, const LibraryMemory& memory, GpuStream stream);

  // False: not prepared, or refused; nothing was enqueued.
  bool multiply(const LibraryProduct& product, void* workspace, GpuStream stream);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace octavo
