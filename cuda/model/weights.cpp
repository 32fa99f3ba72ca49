#include "model/weights.h"

#include "model/roles.h"

namespace octavo {
namespace {

using L = LayerWeights;
using M = ModelWeights;

struct VectorRow {
  octavo_role role;
  Vector L::* vector;
};

constexpr VectorRow kVectors[] = {
    {OCTAVO_ROLE_ATTN_NORM, &L::attn_norm},
    {OCTAVO_ROLE_Q_BIAS, &L::q_bias},
    {OCTAVO_ROLE_K_BIAS, &L::k_bias},
    {OCTAVO_ROLE_V_BIAS, &L::v_bias},
    {OCTAVO_ROLE_O_BIAS, &L::o_bias},
    {OCTAVO_ROLE_Q_NORM, &L::q_norm},
    {OCTAVO_ROLE_K_NORM, &L::k_norm},
    {OCTAVO_ROLE_ATTN_POST_NORM, &L::attn_post_norm},
    {OCTAVO_ROLE_FFN_NORM, &L::ffn_norm},
    {OCTAVO_ROLE_FFN_POST_NORM, &L::ffn_post_norm},
    {OCTAVO_ROLE_ATTN_SINKS, &L::attn_sinks},
};

struct ProjectionRow {
  octavo_role role;
  Projection L::* projection;
  int32_t part;
  int32_t num_parts;
};

constexpr ProjectionRow kProjections[] = {
    {OCTAVO_ROLE_Q_PROJ, &L::qkv, 0, 3},       {OCTAVO_ROLE_K_PROJ, &L::qkv, 1, 3},
    {OCTAVO_ROLE_V_PROJ, &L::qkv, 2, 3},       {OCTAVO_ROLE_O_PROJ, &L::attn_out, 0, 1},
    {OCTAVO_ROLE_GATE_PROJ, &L::gate_up, 0, 2}, {OCTAVO_ROLE_UP_PROJ, &L::gate_up, 1, 2},
    {OCTAVO_ROLE_DOWN_PROJ, &L::down, 0, 1},
};

}  // namespace

WeightPlace weight_place(ModelWeights& weights, int32_t role, int32_t layer) {
  WeightPlace place = {nullptr, nullptr, nullptr, 0, 1};
  if (role == OCTAVO_ROLE_TOKEN_EMBEDDING) place.matrix = &weights.token_embedding;
  if (role == OCTAVO_ROLE_LM_HEAD) place.matrix = &weights.lm_head;
  if (role == OCTAVO_ROLE_OUTPUT_NORM) place.vector = &weights.output_norm;
  if (!is_layer_role(role)) return place;
  LayerWeights& layer_weights = weights.layers[static_cast<size_t>(layer)];
  for (const VectorRow& row : kVectors) {
    if (row.role == role) place.vector = &(layer_weights.*row.vector);
  }
  for (const ProjectionRow& row : kProjections) {
    if (row.role != role) continue;
    place.projection = &(layer_weights.*row.projection);
    place.part = row.part;
    place.num_parts = row.num_parts;
  }
  return place;
}

}  // namespace octavo
