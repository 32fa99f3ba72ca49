#include "model/roles.h"

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
};

constexpr int kWeight = kMatrix | kRequired;

// clang-format off
constexpr RoleRow kRoles[] = {
    {OCTAVO_ROLE_TOKEN_EMBEDDING, "token_embedding", Dim::kVocab,        Dim::kHidden,       kWeight},
    {OCTAVO_ROLE_OUTPUT_NORM,     "output_norm",     Dim::kOne,          Dim::kHidden,       kNorm | kRequired},
    {OCTAVO_ROLE_LM_HEAD,         "lm_head",         Dim::kVocab,        Dim::kHidden,       kMatrix},
    {OCTAVO_ROLE_ROPE_FACTORS,    "rope_factors",    Dim::kOne,          Dim::kHalfHead,     0},
    {OCTAVO_ROLE_ATTN_NORM,       "attn_norm",       Dim::kOne,          Dim::kHidden,       kNorm | kRequired},
    {OCTAVO_ROLE_Q_PROJ,          "q_proj",          Dim::kQ,            Dim::kHidden,       kWeight | kQRows},
    {OCTAVO_ROLE_K_PROJ,          "k_proj",          Dim::kKv,           Dim::kHidden,       kWeight | kKvRows},
    {OCTAVO_ROLE_V_PROJ,          "v_proj",          Dim::kKv,           Dim::kHidden,       kWeight},
    {OCTAVO_ROLE_O_PROJ,          "o_proj",          Dim::kHidden,       Dim::kQ,            kWeight},
    {OCTAVO_ROLE_Q_BIAS,          "q_bias",          Dim::kOne,          Dim::kQ,            kQRows},
    {OCTAVO_ROLE_K_BIAS,          "k_bias",          Dim::kOne,          Dim::kKv,           kKvRows},
    {OCTAVO_ROLE_V_BIAS,          "v_bias",          Dim::kOne,          Dim::kKv,           0},
    {OCTAVO_ROLE_O_BIAS,          "o_bias",          Dim::kOne,          Dim::kHidden,       0},
    {OCTAVO_ROLE_Q_NORM,          "q_norm",          Dim::kOne,          Dim::kHead,         kNorm},
    {OCTAVO_ROLE_K_NORM,          "k_norm",          Dim::kOne,          Dim::kHead,         kNorm},
    {OCTAVO_ROLE_ATTN_POST_NORM,  "attn_post_norm",  Dim::kOne,          Dim::kHidden,       kNorm},
    {OCTAVO_ROLE_FFN_NORM,        "ffn_norm",        Dim::kOne,          Dim::kHidden,       kNorm | kRequired},
    {OCTAVO_ROLE_GATE_PROJ,       "gate_proj",       Dim::kIntermediate, Dim::kHidden,       kWeight},
    {OCTAVO_ROLE_UP_PROJ,         "up_proj",         Dim::kIntermediate, Dim::kHidden,       kWeight},
    {OCTAVO_ROLE_DOWN_PROJ,       "down_proj",       Dim::kHidden,       Dim::kIntermediate, kWeight},
    {OCTAVO_ROLE_FFN_POST_NORM,   "ffn_post_norm",   Dim::kOne,          Dim::kHidden,       kNorm},
    {OCTAVO_ROLE_ATTN_SINKS,      "attn_sinks",      Dim::kOne,          Dim::kQHeads,       0},
};
// clang-format on

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

std::string describe_tensor(const RoleInfo& info, int32_t layer) {
  return is_layer_role(info.role) ? std::string(info.name) + " of layer " + std::to_string(layer) : info.name;
}

}  // namespace octavo
