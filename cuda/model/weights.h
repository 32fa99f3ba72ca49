// The tensors of a model by what they are for, and the table that says which shape each must have.
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
  Vector output_norm, rope_factors;
  std::vector<LayerWeights> layers;
};

// What a role asks of its tensor.
struct RoleInfo {
  int32_t role;
  const char* name;  // as in models/types.ts
  bool is_matrix;
  bool is_required;  // others are given for all layers or for none
  bool is_norm;      // norm_weight_offset is added
  int32_t rows;      // 1 for vectors
  int32_t cols;
  int32_t num_heads;  // heads that interleaved_heads may name, else 0
};

// The info of a role under a config. Throws Error (OCTAVO_INVALID_ARGUMENT) for an unknown role.
RoleInfo role_info(int32_t role, const octavo_model_config& config);

// All roles in ascending order.
const std::vector<int32_t>& all_roles();

inline bool is_layer_role(int32_t role) { return role >= OCTAVO_ROLE_ATTN_NORM; }

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
