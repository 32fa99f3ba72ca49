// The products of the forward pass on a GPU: y[m][rows] = x[m][cols] W^T for every number of tokens m.
//
// Up to streamed_max_m() tokens our own kernels stream the weights once at the memory's speed; with more the product is
// arithmetic and cuBLASLt does it. Where cuBLASLt is not installed our kernels take every m (library_note() says so).
//
// A row of y depends on its row of x and on which of the two does the product, never on the other rows of x.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "arch/gpu.h"
#include "gemm/device_matrix.h"

namespace octavo {

enum class MatmulEpilogue : int32_t {
  kStore = 0,     // y = product + bias
  kAdd = 1,       // y (f32) += product + bias: the residual stream
  kSiluGate = 2,  // rows of W are gate, then up; y[m][rows / 2] = silu(gate) * up
  kGeluGate = 3,  // the same with gelu (tanh approximation)
};

constexpr bool is_gate(MatmulEpilogue epilogue) {
  return epilogue == MatmulEpilogue::kSiluGate || epilogue == MatmulEpilogue::kGeluGate;
}

// One product as it will be asked for; what DeviceMatmul prepares.
struct MatmulShape {
  int32_t rows;
  int32_t cols;
  int32_t dtype;    // of W
  int32_t y_dtype;  // OCTAVO_F32, OCTAVO_BF16 or OCTAVO_F16
  MatmulEpilogue epilogue;
  int32_t max_m;    // the most tokens of one call
};

struct MatmulArgs {
  const DeviceMatrix* w;
  const void* x;          // [m][cols] of the compute dtype, or of E4M3 with x_scales; aligned to 16 bytes
  const float* x_scales;  // device f32[m]: real = stored x scale; nullptr: x is of the compute dtype
  int64_t x_stride;       // elements from row to row; rows begin at multiples of 16 bytes
  int32_t m;
  void* y;                // [m][rows], gates: [m][rows / 2]; aligned to 16 bytes
  int64_t y_stride;       // elements, a multiple of 8
  int32_t y_dtype;        // OCTAVO_F32 (the only one with kAdd), OCTAVO_BF16, OCTAVO_F16
  float* y_scales;        // device f32[m]: y, where makes_e4m3(), is rounded to E4M3 after y_dtype; or nullptr
  const float* bias;      // device f32[rows] or nullptr
  MatmulEpilogue epilogue;
};

class DeviceMatmul {
 public:
  // compute_dtype: of activations, OCTAVO_BF16 or OCTAVO_F16. Allocates the workspace, loads cuBLASLt if a shape's max_m
  // needs it and chooses its algorithms; nothing is allocated or chosen later. Throws Error for shapes out of range.
  DeviceMatmul(int32_t compute_dtype, const std::vector<MatmulShape>& shapes);
  ~DeviceMatmul();
  DeviceMatmul(const DeviceMatmul&) = delete;
  DeviceMatmul& operator=(const DeviceMatmul&) = delete;

  // Whether x of this product must be E4M3 with x_scales (both operands FP8: large m of FP8 weights).
  bool takes_e4m3(const DeviceMatrix& w, int32_t m) const;

  // Whether a gate of m tokens can leave y in E4M3 with a scale a row, as the next product takes it.
  bool makes_e4m3(const DeviceMatrix& w, int32_t m) const;

  // Enqueues one product; can be captured in a graph. With overlap it may start before its predecessor in the stream
  // has finished, to fetch weights, and it lets its successor do the same; x, bias, scales and y are touched after the
  // predecessor. Calls that share a DeviceMatmul must be ordered by one stream (they share the workspace).
  // Throws Error(OCTAVO_INVALID_ARGUMENT) for a product that was not among the shapes or is larger.
  void multiply(const MatmulArgs& args, GpuStream stream, bool overlap);

  // Memory that a product by cuBLASLt needs while it runs.
  struct Shared {
    size_t workspace_bytes;
    size_t gate_bytes;  // what a gate's product makes before the gate
  };
  Shared shared() const;

  // Gives products other memory for that than their own, which others may use between them; it stays the caller's.
  void use_shared(void* workspace, void* gate);

  int32_t streamed_max_m() const;
  const std::string& library_note() const;    // which cuBLASLt is in use, or why none is and what to install

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace octavo
