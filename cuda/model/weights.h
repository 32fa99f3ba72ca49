// The tensors of the CPU build's models by what they are for.
#pragma once

#include <cstdint>
#include <vector>

#include "gemm/matrix.h"
#include "model/projection.h"
#include "octavo.h"

namespace octavo {

// A vector of f32; empty when the model has none.
using Vector = std::vector<float>;

struct LayerWeights {
  Vector attn_norm, attn_post_norm, ffn_norm, ffn_post_norm, q_norm, k_norm;
  Vector q_bias, k_bias, v_bias, o_bias, attn_sinks;
  Projection qkv, attn_out, gate_up, down;
};

struct ModelWeights {
  Matrix token_embedding;
  Matrix lm_head;  // rows() == 0: the token embedding is used
  Vector output_norm;
  std::vector<LayerWeights> layers;
};

// Where a role's tensor is kept: one of the three is not null. A projection is made of num_parts tensors, of which this
// one is part.
struct WeightPlace {
  Matrix* matrix;
  Vector* vector;
  Projection* projection;
  int32_t part;
  int32_t num_parts;
};
WeightPlace weight_place(ModelWeights& weights, int32_t role, int32_t layer);

}  // namespace octavo
