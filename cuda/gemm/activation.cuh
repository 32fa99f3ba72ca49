#pragma once

#include "gemm/device_matmul.h"

namespace octavo {

// The gate's function, kSiluGate or kGeluGate. The quotients are off by two ulp of f32 at most; a denominator beyond 2^126,
// for which they are 0, means a gate below -87.
__device__ inline float activate(float gate, MatmulEpilogue epilogue) {
  if (epilogue == MatmulEpilogue::kSiluGate) return __fdividef(gate, 1.0f + __expf(-gate));
  // 0.5 x (1 + tanh(u)) = x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3)
  const float u = 0.7978845608028654f * (gate + 0.044715f * gate * gate * gate);
  return __fdividef(gate, 1.0f + __expf(-2.0f * u));
}

}  // namespace octavo
