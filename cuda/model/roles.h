// The roles of a model's tensors: the table that says which shape each must have and which must be there.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "octavo.h"

namespace octavo {

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

// "q_proj of layer 3" or "lm_head"
std::string describe_tensor(const RoleInfo& info, int32_t layer);

}  // namespace octavo
