#include "model/weights.h"

#include "arch/error.h"

namespace octavo {
namespace {

// Lengths that shapes are made of.
enum class Dim { kOne, kVocab, kHidden, kIntermediate, kQ, kKv, kHead, kHalfHead, kQHeads };

enum Kind : int { kMatrix = 1, kRequired = 2, kNorm = 4, kQRows = 8, kKvRows = 16 };

struct RoleRow {
  octavo_role role;
  const char* name;
  Dim rows;
  Dim cols;
  int kind;
  Matrix ModelWeights::* model_matrix = nullptr;
  Vector ModelWeights::* model_vector = nullptr;
  Vector LayerWeights::* layer_vector = nullptr;
  Projection LayerWeights::* layer_projection = nullptr;
  int32_t part = 0;
  int32_t num_parts = 1;
};

constexpr RoleRow model_matrix(octavo_role role, const char* name, Dim rows, Dim cols, int kind,
                               Matrix ModelWeights::* place) {
  return {role, name, rows, cols, kind | kMatrix, place};
}
constexpr RoleRow model_vector(octavo_role role, const char* name, Dim cols, int kind, Vector ModelWeights::* place) {
  return {role, name, Dim::kOne, cols, kind, nullptr, place};
}
constexpr RoleRow vector(octavo_role role, const char* name, Dim cols, int kind, Vector LayerWeights::* place) {
  return {role, name, Dim::kOne, cols, kind, nullptr, nullptr, place};
}

// Which part of which projection a matrix is.
struct Part {
  Projection LayerWeights::* projection;
  int32_t part;
  int32_t num_parts;
};
constexpr RoleRow matrix(octavo_role role, const char* name, Dim rows, Dim cols, int kind, Part part) {
  return {role,    name,    rows,    cols,           kind | kMatrix | kRequired,
          nullptr, nullptr, nullptr, part.projection, part.part, part.num_parts};
}

using L = LayerWeights;
using M = ModelWeights;

constexpr RoleRow kRoles[] = {
    model_matrix(OCTAVO_ROLE_TOKEN_EMBEDDING, "token_embedding", Dim::kVocab, Dim::kHidden, kRequired,
                 &M::token_embedding),
    model_vector(OCTAVO_ROLE_OUTPUT_NORM, "output_norm", Dim::kHidden, kNorm | kRequired, &M::output_norm),
    model_matrix(OCTAVO_ROLE_LM_HEAD, "lm_head", Dim::kVocab, Dim::kHidden, 0, &M::lm_head),
    model_vector(OCTAVO_ROLE_ROPE_FACTORS, "rope_factors", Dim::kHalfHead, 0, &M::rope_factors),
    vector(OCTAVO_ROLE_ATTN_NORM, "attn_norm", Dim::kHidden, kNorm | kRequired, &L::attn_norm),
    matrix(OCTAVO_ROLE_Q_PROJ, "q_proj", Dim::kQ, Dim::kHidden, kQRows, {&L::qkv, 0, 3}),
    matrix(OCTAVO_ROLE_K_PROJ, "k_proj", Dim::kKv, Dim::kHidden, kKvRows, {&L::qkv, 1, 3}),
    matrix(OCTAVO_ROLE_V_PROJ, "v_proj", Dim::kKv, Dim::kHidden, 0, {&L::qkv, 2, 3}),
    matrix(OCTAVO_ROLE_O_PROJ, "o_proj", Dim::kHidden, Dim::kQ, 0, {&L::attn_out, 0, 1}),
    vector(OCTAVO_ROLE_Q_BIAS, "q_bias", Dim::kQ, kQRows, &L::q_bias),
    vector(OCTAVO_ROLE_K_BIAS, "k_bias", Dim::kKv, kKvRows, &L::k_bias),
    vector(OCTAVO_ROLE_V_BIAS, "v_bias", Dim::kKv, 0, &L::v_bias),
    vector(OCTAVO_ROLE_O_BIAS, "o_bias", Dim::kHidden, 0, &L::o_bias),
    vector(OCTAVO_ROLE_Q_NORM, "q_norm", Dim::kHead, kNorm, &L::q_norm),
    vector(OCTAVO_ROLE_K_NORM, "k_norm", Dim::kHead, kNorm, &L::k_norm),
    vector(OCTAVO_ROLE_ATTN_POST_NORM, "attn_post_norm", Dim::kHidden, kNorm, &L::attn_post_norm),
    vector(OCTAVO_ROLE_FFN_NORM, "ffn_norm", Dim::kHidden, kNorm | kRequired, &L::ffn_norm),
    matrix(OCTAVO_ROLE_GATE_PROJ, "gate_proj", Dim::kIntermediate, Dim::kHidden, 0, {&L::gate_up, 0, 2}),
    matrix(OCTAVO_ROLE_UP_PROJ, "up_proj", Dim::kIntermediate, Dim::kHidden, 0, {&L::gate_up, 1, 2}),
    matrix(OCTAVO_ROLE_DOWN_PROJ, "down_proj", Dim::kHidden, Dim::kIntermediate, 0, {&L::down, 0, 1}),
    vector(OCTAVO_ROLE_FFN_POST_NORM, "ffn_post_norm", Dim::kHidden, kNorm, &L::ffn_post_norm),
    vector(OCTAVO_ROLE_ATTN_SINKS, "attn_sinks", Dim::kQHeads, 0, &L::attn_sinks),
};

// Every product fits: check_model_config bounds heads by 2^16 and head_dim by 256.
int32_t length(Dim dim, const octavo_model_config& config) {
  switch (dim) {
    case Dim::kOne: return 1;
    case Dim::kVocab: return config.vocab_size;
    case Dim::kHidden: return config.hidden_size;
    case Dim::kIntermediate: return config.intermediate_size;
    case Dim::kQ: return config.num_q_heads * config.head_dim;
    case Dim::kKv: return config.num_kv_heads * config.head_dim;
    case Dim::kHead: return config.head_dim;
    case Dim::kHalfHead: return config.head_dim / 2;
    case Dim::kQHeads: return config.num_q_heads;
  }
  return 0;
}

const RoleRow& find_role(int32_t role) {
  for (const RoleRow& row : kRoles) {
    if (row.role == role) return row;
  }
  fail(OCTAVO_INVALID_ARGUMENT, "role must be an octavo_role, found %d", role);
}

}  // namespace

RoleInfo role_info(int32_t role, const octavo_model_config& config) {
  const RoleRow& row = find_role(role);
  int32_t num_heads = 0;
  if ((row.kind & kQRows) != 0) num_heads = config.num_q_heads;
  if ((row.kind & kKvRows) != 0) num_heads = config.num_kv_heads;
  return {role,
          row.name,
          (row.kind & kMatrix) != 0,
          (row.kind & kRequired) != 0,
          (row.kind & kNorm) != 0,
          length(row.rows, config),
          length(row.cols, config),
          num_heads};
}

const std::vector<int32_t>& all_roles() {
  static const std::vector<int32_t> roles = [] {
    std::vector<int32_t> list;
    for (const RoleRow& row : kRoles) list.push_back(row.role);
    return list;
  }();
  return roles;
}

WeightPlace weight_place(ModelWeights& weights, int32_t role, int32_t layer) {
  const RoleRow& row = find_role(role);
  WeightPlace place = {nullptr, nullptr, nullptr, row.part, row.num_parts};
  if (row.model_matrix != nullptr) place.matrix = &(weights.*row.model_matrix);
  if (row.model_vector != nullptr) place.vector = &(weights.*row.model_vector);
  if (!is_layer_role(role)) return place;
  LayerWeights& layer_weights = weights.layers[static_cast<size_t>(layer)];
  if (row.layer_vector != nullptr) place.vector = &(layer_weights.*row.layer_vector);
  if (row.layer_projection != nullptr) place.projection = &(layer_weights.*row.layer_projection);
  return place;
}

}  // namespace octavo
