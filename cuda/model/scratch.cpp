#include "model/scratch.h"

#include "model/checked_size.h"

namespace octavo {
namespace {

int64_t qkv_width(const octavo_model_config& model) {
  return (int64_t{model.num_q_heads} + 2 * int64_t{model.num_kv_heads}) * model.head_dim;
}

}  // namespace

Rows::Rows(const char* what, int64_t num_rows, int64_t width)
    : width_(width),
      memory_(checked_product(what, {static_cast<uint64_t>(num_rows), static_cast<uint64_t>(width), sizeof(float)})) {}

Scratch::Scratch(const octavo_model_config& model, const octavo_engine_config& config)
    : hidden("hidden states", config.max_num_batched_tokens, model.hidden_size),
      normed("normed hidden states", config.max_num_batched_tokens, model.hidden_size),
      qkv("Q, K and V", config.max_num_batched_tokens, qkv_width(model)),
      attn("attention output", config.max_num_batched_tokens, int64_t{model.num_q_heads} * model.head_dim),
      projected("projected hidden states", config.max_num_batched_tokens, model.hidden_size),
      gate_up("feed-forward activations", config.max_num_batched_tokens, int64_t{2} * model.intermediate_size),
      cosines{Rows("RoPE cosines", config.max_num_batched_tokens, model.head_dim / 2),
              Rows("RoPE cosines", config.max_num_batched_tokens, model.head_dim / 2)},
      sines{Rows("RoPE sines", config.max_num_batched_tokens, model.head_dim / 2),
            Rows("RoPE sines", config.max_num_batched_tokens, model.head_dim / 2)},
      positions(sizeof(int32_t) * static_cast<size_t>(config.max_num_batched_tokens)),
      slot_mapping(sizeof(int32_t) * static_cast<size_t>(config.max_num_batched_tokens)),
      head_input("output head inputs", config.max_samples, model.hidden_size),
      logits("logits", config.max_samples, model.vocab_size) {}

uint64_t Scratch::size_bytes(const octavo_model_config& model, const octavo_engine_config& config) {
  const int64_t token_floats = int64_t{3} * model.hidden_size + qkv_width(model) +
                               int64_t{model.num_q_heads} * model.head_dim + int64_t{2} * model.intermediate_size +
                               int64_t{2} * model.head_dim + 2;
  const int64_t row_floats = int64_t{model.hidden_size} + model.vocab_size;
  return sizeof(float) * (static_cast<uint64_t>(config.max_num_batched_tokens) * static_cast<uint64_t>(token_floats) +
                          static_cast<uint64_t>(config.max_samples) * static_cast<uint64_t>(row_floats));
}

}  // namespace octavo
