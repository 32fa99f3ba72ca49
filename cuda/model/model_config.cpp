#include "model/model_config.h"

#include <cmath>
#include <cstdint>

#include "arch/error.h"

namespace octavo {
namespace {

void check_count(int32_t value, const char* name, int32_t lowest, int32_t highest) {
  if (value >= lowest && value <= highest) return;
  fail(OCTAVO_INVALID_ARGUMENT, "%s must be %d to %d, found %d", name, lowest, highest, value);
}

void check_number(float value, const char* name, bool ok, const char* range) {
  if (ok && std::isfinite(value)) return;
  fail(OCTAVO_INVALID_ARGUMENT, "%s must be %s, found %g", name, range, value);
}

// Bounds far above any model, so that sizes in elements fit int32 or are caught when they are allocated.
void check_counts(const octavo_model_config& config) {
  constexpr int32_t kMaxWidth = 1 << 24;
  check_count(config.vocab_size, "vocab_size", 1, kMaxWidth);
  check_count(config.hidden_size, "hidden_size", 1, kMaxWidth);
  check_count(config.intermediate_size, "intermediate_size", 1, kMaxWidth);
  check_count(config.num_layers, "num_layers", 1, 1 << 16);
  check_count(config.num_q_heads, "num_q_heads", 1, 1 << 16);
  check_count(config.num_kv_heads, "num_kv_heads", 1, 1 << 16);
  check_count(config.head_dim, "head_dim", 8, 256);
  check_count(config.max_model_len, "max_model_len", 1, 1 << 30);
  check_count(config.activation, "activation", OCTAVO_SILU, OCTAVO_GELU_TANH);
  check_count(config.quantization, "quantization", OCTAVO_QUANTIZATION_NONE, OCTAVO_QUANTIZATION_FP8);
  if (config.head_dim % 8 != 0) {
    fail(OCTAVO_INVALID_ARGUMENT, "head_dim must be a multiple of 8, found %d", config.head_dim);
  }
  if (config.num_q_heads % config.num_kv_heads != 0) {
    fail(OCTAVO_INVALID_ARGUMENT, "num_q_heads must be a multiple of num_kv_heads %d, found %d", config.num_kv_heads,
         config.num_q_heads);
  }
}

void check_numbers(const octavo_model_config& config) {
  const float eps = config.rms_norm_eps;
  check_number(eps, "rms_norm_eps", eps > 0, "above 0 and finite");
  check_number(config.norm_weight_offset, "norm_weight_offset", true, "finite");
  check_number(config.embedding_scale, "embedding_scale", true, "finite");
  check_number(config.attn_softmax_scale, "attn_softmax_scale", config.attn_softmax_scale > 0, "above 0 and finite");
  const float attn_cap = config.attn_logit_softcap;
  check_number(attn_cap, "attn_logit_softcap", attn_cap >= 0, "at least 0 and finite");
  const float final_cap = config.final_logit_softcap;
  check_number(final_cap, "final_logit_softcap", final_cap >= 0, "at least 0 and finite");
  for (const float factor : config.rope_attn_factor) check_number(factor, "rope_attn_factor", true, "finite");
}

}  // namespace

void check_model_config(const octavo_model_config& config, const octavo_layer_config* layers, const float* inv_freq) {
  check_counts(config);
  check_numbers(config);
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    const octavo_layer_config& settings = layers[layer];
    if (settings.sliding_window < 0) {
      fail(OCTAVO_INVALID_ARGUMENT, "sliding_window of layer %d must be at least 0, found %d", layer,
           settings.sliding_window);
    }
    if (settings.rope_table != 0 && settings.rope_table != 1) {
      fail(OCTAVO_INVALID_ARGUMENT, "rope_table of layer %d must be 0 or 1, found %d", layer, settings.rope_table);
    }
    if (settings.kv_dtype < -1 || settings.kv_dtype > OCTAVO_KV_INT4) {
      fail(OCTAVO_INVALID_ARGUMENT, "kv_dtype of layer %d must be -1 to %d, found %d", layer,
           OCTAVO_KV_INT4, settings.kv_dtype);
    }
  }
  for (int32_t i = 0; i < config.head_dim; ++i) {
    if (!std::isfinite(inv_freq[i])) {
      fail(OCTAVO_INVALID_ARGUMENT, "inv_freq %d of table %d must be finite, found %g", i % (config.head_dim / 2),
           i / (config.head_dim / 2), inv_freq[i]);
    }
  }
}

}  // namespace octavo
