#include "model/forward.h"

#include "kv/pages.h"
#include "ops/rope.h"
#include "ops/token_loop.h"
#include "ops/vector_ops.h"

namespace octavo {
namespace {

// Positions and slots of the step's tokens.
//
//   tokens   | sequence 0          | sequence 1 | ...
//   position   seq_len - query_len ... seq_len - 1
//   slot       page_table[s][position / page_size] * page_size + position % page_size
void place_tokens(const ForwardContext& context) {
  const StepView& step = context.step;
  int32_t* positions = context.scratch.positions.as<int32_t>();
  int32_t* slots = context.scratch.slot_mapping.as<int32_t>();
  for (int32_t s = 0; s < step.num_seqs(); ++s) {
    const int32_t page_size = context.kv.page_size(step.kv_index[s]);
    const int32_t* pages = step.page_table + int64_t{s} * context.max_pages_per_seq;
    for (int32_t position = step.seq_len[s] - step.query_len[s]; position < step.seq_len[s]; ++position) {
      *positions++ = position;
      *slots++ = pages[position / page_size] * page_size + position % page_size;
    }
  }
}

void fill_rope_tables(const ForwardContext& context) {
  const octavo_model_config& config = context.model.config();
  bool is_used[2] = {false, false};
  for (const octavo_layer_config& layer : context.model.layers()) is_used[layer.rope_table] = true;
  for (int32_t table = 0; table < 2; ++table) {
    if (!is_used[table]) continue;
    rope_tables(context.scratch.positions.as<int32_t>(), context.step.num_tokens(), context.model.inv_freq(table),
                config.head_dim / 2, config.rope_attn_factor[table], context.scratch.cosines[table].data(),
                context.scratch.sines[table].data(), context.threads);
  }
}

void norm_row(const ForwardContext& context, const Vector& weight, const float* x, float* out) {
  const octavo_model_config& config = context.model.config();
  vector_ops().rms_norm(x, weight.data(), config.hidden_size, config.rms_norm_eps, out);
}

void embed_tokens(const ForwardContext& context) {
  const Model& model = context.model;
  const int32_t width = model.config().hidden_size;
  for_each_token(context.threads, context.step.num_tokens(), int64_t{4} * width, [&](int32_t token) {
    float* hidden = context.scratch.hidden.row(token);
    model.weights().token_embedding.dequantize_row(context.step.tokens[token], hidden);
    if (model.config().embedding_scale != 1) vector_ops().scale(hidden, width, model.config().embedding_scale);
    norm_row(context, model.weights().layers[0].attn_norm, hidden, context.scratch.normed.row(token));
  });
}

// heads: [num_heads][head_dim], normed head by head where the model has a norm, then rotated.
void prepare_heads(const ForwardContext& context, const Vector& norm, float* heads, int32_t num_heads,
                   const float* cosines, const float* sines) {
  const octavo_model_config& config = context.model.config();
  const VectorOps& ops = vector_ops();
  for (int32_t head = 0; head < num_heads; ++head) {
    float* x = heads + int64_t{head} * config.head_dim;
    if (!norm.empty()) ops.rms_norm(x, norm.data(), config.head_dim, config.rms_norm_eps, x);
    ops.rotate(x, cosines, sines, config.head_dim / 2);
  }
}

void add_bias(const Vector& bias, float* x) {
  if (!bias.empty()) vector_ops().add(x, bias.data(), static_cast<int32_t>(bias.size()));
}

// A row of scratch.qkv: | q heads | k heads | v heads |, head_dim each.
struct QkvOffsets {
  explicit QkvOffsets(const octavo_model_config& config)
      : k(int64_t{config.num_q_heads} * config.head_dim), v(k + int64_t{config.num_kv_heads} * config.head_dim) {}
  int64_t k;
  int64_t v;
};

void compute_qkv(const ForwardContext& context, int32_t layer) {
  const octavo_model_config& config = context.model.config();
  const LayerWeights& weights = context.model.weights().layers[static_cast<size_t>(layer)];
  const int32_t table = context.model.layers()[static_cast<size_t>(layer)].rope_table;
  const int32_t num_tokens = context.step.num_tokens();
  const QkvOffsets offset(config);
  const Rows& normed = context.scratch.normed;
  Rows& qkv = context.scratch.qkv;
  weights.qkv.multiply(normed.row(0), normed.width(), num_tokens, qkv.data(), qkv.width(), context.threads);
  for_each_token(context.threads, num_tokens, 2 * qkv.width(), [&](int32_t token) {
    float* row = qkv.row(token);
    const float* cosines = context.scratch.cosines[table].row(token);
    const float* sines = context.scratch.sines[table].row(token);
    add_bias(weights.q_bias, row);
    add_bias(weights.k_bias, row + offset.k);
    add_bias(weights.v_bias, row + offset.v);
    prepare_heads(context, weights.q_norm, row, config.num_q_heads, cosines, sines);
    prepare_heads(context, weights.k_norm, row + offset.k, config.num_kv_heads, cosines, sines);
  });
}

// Takes in a layer's K and V for what is made of them beside attention.
void count_kv(const ForwardContext& context, int32_t layer) {
  const QkvOffsets offset(context.model.config());
  Rows& qkv = context.scratch.qkv;
  const int32_t num_tokens = context.step.num_tokens();
  const float* k = qkv.data() + offset.k;
  const float* v = qkv.data() + offset.v;
  if (context.kv_histograms != nullptr) context.kv_histograms->add(layer, k, v, qkv.width(), num_tokens);
  if (context.kv.calculates_scales(layer)) context.kv.calculate_layer_scales(layer, k, v, qkv.width(), num_tokens);
}

// Stores K and V of sequences of one KV dtype, and attends.
void run_attention(const ForwardContext& context, int32_t layer, const KvGroup& group) {
  const octavo_model_config& config = context.model.config();
  const LayerWeights& weights = context.model.weights().layers[static_cast<size_t>(layer)];
  const QkvOffsets offset(config);
  Rows& qkv = context.scratch.qkv;
  const int32_t num_tokens = group.num_tokens;
  const octavo_kv_shape& shape = context.kv.layer_shape(group.kv_index, layer);
  const float* q = qkv.row(group.first_token);
  const float* k = q + offset.k;
  const float* v = q + offset.v;
  const int32_t* slots = context.scratch.slot_mapping.as<int32_t>() + group.first_token;
  uint8_t* pages = context.kv.layer_pages(group.kv_index, layer);
  const KvConstants constants = {context.kv.layer_scales(group.kv_index, layer),
                                 context.kv.layer_k_mean(group.kv_index, layer)};
  kv_append(shape, pages, k, qkv.width(), v, qkv.width(), slots, num_tokens, constants, context.threads);
  if (context.kv_stats != nullptr) {
    context.kv_stats->add(layer, {shape, pages, constants, k, v, qkv.width(), slots, num_tokens}, context.threads);
  }
  AttentionArgs args = {};
  args.shape = shape;
  args.config.num_seqs = group.num_seqs;
  args.config.num_tokens = num_tokens;
  args.config.num_q_heads = config.num_q_heads;
  args.config.max_pages_per_seq = context.max_pages_per_seq;
  args.config.sliding_window = context.model.layers()[static_cast<size_t>(layer)].sliding_window;
  args.config.num_threads = context.threads.size();
  args.config.softmax_scale = config.attn_softmax_scale;
  args.config.logit_softcap = config.attn_logit_softcap;
  args.pages = pages;
  args.q = q;
  args.q_stride = qkv.width();
  args.query_len = context.step.query_len + group.first_seq;
  args.seq_len = context.step.seq_len + group.first_seq;
  args.page_table = context.step.page_table + int64_t{group.first_seq} * context.max_pages_per_seq;
  args.scales = constants.scales;
  args.sinks = weights.attn_sinks.empty() ? nullptr : weights.attn_sinks.data();
  args.out = context.scratch.attn.row(group.first_token);
  paged_attention(args, context.attention.find(group.kv_index, args), context.attention.scratch(), context.threads);
}

// What follows a product into the residual stream: its bias and post norm, the residual add, the norm before the next
// product. Empty vectors are left out.
struct ResidualStep {
  const Vector& bias;
  const Vector& post_norm;
  const Vector& next_norm;
};

void add_residual(const ForwardContext& context, const ResidualStep& residual) {
  const int32_t width = context.model.config().hidden_size;
  for_each_token(context.threads, context.step.num_tokens(), int64_t{4} * width, [&](int32_t token) {
    float* projected = context.scratch.projected.row(token);
    float* hidden = context.scratch.hidden.row(token);
    add_bias(residual.bias, projected);
    if (!residual.post_norm.empty()) norm_row(context, residual.post_norm, projected, projected);
    vector_ops().add(hidden, projected, width);
    if (!residual.next_norm.empty()) {
      norm_row(context, residual.next_norm, hidden, context.scratch.normed.row(token));
    }
  });
}

void run_feed_forward(const ForwardContext& context, const LayerWeights& weights) {
  const octavo_model_config& config = context.model.config();
  const int32_t width = config.intermediate_size;
  const int32_t num_tokens = context.step.num_tokens();
  const Rows& normed = context.scratch.normed;
  Rows& gate_up = context.scratch.gate_up;
  Rows& projected = context.scratch.projected;
  weights.gate_up.multiply(normed.row(0), normed.width(), num_tokens, gate_up.data(), gate_up.width(),
                           context.threads);
  const auto gate = config.activation == OCTAVO_SILU ? vector_ops().silu_gate : vector_ops().gelu_tanh_gate;
  for_each_token(context.threads, num_tokens, int64_t{8} * width,
                 [&](int32_t token) { gate(gate_up.row(token), gate_up.row(token) + width, width); });
  weights.down.multiply(gate_up.data(), gate_up.width(), num_tokens, projected.data(), projected.width(),
                        context.threads);
}

void run_layer(const ForwardContext& context, int32_t layer) {
  const std::vector<LayerWeights>& layers = context.model.weights().layers;
  const LayerWeights& weights = layers[static_cast<size_t>(layer)];
  const bool is_last = layer + 1 == context.model.config().num_layers;
  const Vector none;
  compute_qkv(context, layer);
  count_kv(context, layer);
  for (const KvGroup& group : context.groups) run_attention(context, layer, group);
  const Rows& attn = context.scratch.attn;
  Rows& projected = context.scratch.projected;
  weights.attn_out.multiply(attn.row(0), attn.width(), context.step.num_tokens(), projected.data(), projected.width(),
                            context.threads);
  add_residual(context, {weights.o_bias, weights.attn_post_norm, weights.ffn_norm});
  run_feed_forward(context, weights);
  add_residual(context, {none, weights.ffn_post_norm, is_last ? none : layers[static_cast<size_t>(layer) + 1].attn_norm});
}

}  // namespace

void run_layers(const ForwardContext& context) {
  context.attention.begin_step();
  place_tokens(context);
  fill_rope_tables(context);
  embed_tokens(context);
  for (int32_t layer = 0; layer < context.model.config().num_layers; ++layer) run_layer(context, layer);
  context.kv.end_step();
}

void compute_logits(const ForwardContext& context, const int32_t* tokens, int32_t num_rows) {
  const Model& model = context.model;
  Scratch& scratch = context.scratch;
  if (num_rows == 0) return;
  for (int32_t row = 0; row < num_rows; ++row) {
    norm_row(context, model.weights().output_norm, scratch.hidden.row(tokens[row]), scratch.head_input.row(row));
  }
  model.lm_head().multiply(scratch.head_input.data(), scratch.head_input.width(), num_rows, scratch.logits.data(),
                           scratch.logits.width(), context.threads);
  const float cap = model.config().final_logit_softcap;
  if (cap == 0) return;
  const int32_t vocab_size = model.config().vocab_size;
  for_each_token(context.threads, num_rows, int64_t{4} * vocab_size,
                 [&](int32_t row) { vector_ops().softcap(scratch.logits.row(row), vocab_size, cap); });
}

}  // namespace octavo
