// The element-wise work of the forward pass and the sampler: small loops over rows of floats. Written once in
// vector_ops.inc and compiled for each instruction set; every call works on one row, so that a token's result never
// depends on the tokens beside it.
#pragma once

#include <cstdint>

namespace octavo {

// Floats a block of block_max and exp_weights covers.
constexpr int32_t kVectorBlock = 256;

struct VectorOps {
  // out[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i]; out may be x. Zhang and Sennrich 2019, "Root Mean Square Layer
  // Normalization".
  void (*rms_norm)(const float* x, const float* weight, int32_t n, float eps, float* out);

  // x[i] += y[i]
  void (*add)(float* x, const float* y, int32_t n);

  // x[i] *= factor
  void (*scale)(float* x, int32_t n, float factor);

  // Rotates the pairs (x[i], x[i + half]) by angles given as cosines and sines: [half] each. Su et al. 2021, "RoFormer",
  // with the pairs in halves (GPT-NeoX).
  void (*rotate)(float* x, const float* cosines, const float* sines, int32_t half);

  // gate[i] = gate[i] * sigmoid(gate[i]) * up[i]. Shazeer 2020, "GLU Variants Improve Transformer".
  void (*silu_gate)(float* gate, const float* up, int32_t n);

  // gate[i] = gelu(gate[i]) * up[i] with GELU's tanh approximation. Hendrycks and Gimpel 2016.
  void (*gelu_tanh_gate)(float* gate, const float* up, int32_t n);

  // x[i] = cap * tanh(x[i] / cap)
  void (*softcap)(float* x, int32_t n, float cap);

  // maxima[b] = the largest of x[b * kVectorBlock ...], NaN left out (-infinity if nothing is left).
  void (*block_max)(const float* x, int32_t n, float* maxima);

  // weights[i] = exp((x[i] - max) / temperature), 0 for NaN; block_sums[b] = their sum over block b. x[i] <= max or NaN.
  void (*exp_weights)(const float* x, int32_t n, float max, float temperature, float* weights, float* block_sums);
};

// The ops for isa().
const VectorOps& vector_ops();

}  // namespace octavo
