#include "model/device_forward.h"

#include <algorithm>

#include "gemm/rows.h"
#include "kv/append.h"
#include "model/checked_size.h"
#include "model/kv_cache_config.h"
#include "model/kv_dtypes.h"

namespace octavo {
namespace {

constexpr size_t kComputeBytes = 2;

MatmulEpilogue gate_epilogue(const octavo_model_config& config) {
  return config.activation == OCTAVO_SILU ? MatmulEpilogue::kSiluGate : MatmulEpilogue::kGeluGate;
}

MatmulEpilogue residual_epilogue(const float* post_norm) {
  return post_norm == nullptr ? MatmulEpilogue::kAdd : MatmulEpilogue::kStore;
}

// Every product that a step may ask for.
std::vector<MatmulShape> list_products(const DeviceModel& model, const octavo_engine_config& config) {
  std::vector<MatmulShape> shapes;
  const int32_t max_tokens = config.max_num_batched_tokens;
  const auto add = [&](const DeviceMatrix& w, int32_t y_dtype, MatmulEpilogue epilogue, int32_t max_m) {
    for (const MatmulShape& one : shapes) {
      if (one.rows == w.rows && one.cols == w.cols && one.dtype == w.dtype && one.y_dtype == y_dtype &&
          one.epilogue == epilogue && one.max_m == max_m) {
        return;
      }
    }
    shapes.push_back({w.rows, w.cols, w.dtype, y_dtype, epilogue, max_m});
  };
  for (int32_t i = 0; i < model.config().num_layers; ++i) {
    const DeviceLayerWeights& layer = model.layer(i);
    add(layer.qkv, OCTAVO_F32, MatmulEpilogue::kStore, max_tokens);
    add(layer.attn_out, OCTAVO_F32, residual_epilogue(layer.attn_post_norm), max_tokens);
    add(layer.gate_up, model.compute_dtype(), gate_epilogue(model.config()), max_tokens);
    add(layer.down, OCTAVO_F32, residual_epilogue(layer.ffn_post_norm), max_tokens);
  }
  add(model.lm_head(), OCTAVO_F32, MatmulEpilogue::kStore, config.max_samples);
  return shapes;
}

// A row of scratch.qkv: | q heads | k heads | v heads |, head_dim each.
struct QkvOffsets {
  explicit QkvOffsets(const octavo_model_config& config)
      : k(int64_t{config.num_q_heads} * config.head_dim),
        v(k + int64_t{config.num_kv_heads} * config.head_dim),
        width(v + int64_t{config.num_kv_heads} * config.head_dim) {}
  int64_t k;
  int64_t v;
  int64_t width;
};

// The group's rows of a table [tokens][num_q_heads][head_dim] of compute_dtype.
void* q_row(void* table, const KvGroup& group, const octavo_model_config& config) {
  return static_cast<uint8_t*>(table) +
         int64_t{kComputeBytes} * group.first_token * config.num_q_heads * config.head_dim;
}

}  // namespace

DeviceForward::DeviceForward(const DeviceModel& model, const octavo_engine_config& config,
                             const DeviceScratch& scratch, const DeviceKvCache& kv)
    : model_(model),
      config_(config),
      scratch_(scratch),
      kv_(kv),
      matmul_(model.compute_dtype(), list_products(model, config)) {
  // Room for the keys of the longest sequence, or of as many whole prompts as a step takes. It does not depend on the
  // number of pages, which is chosen from what is left.
  const int64_t tokens = std::max(int64_t{config.max_pages_per_seq} * largest_page_size(config),
                                  int64_t{config.max_num_batched_tokens} + int64_t{16} * config.max_num_seqs);
  int64_t keys_bytes = 0;
  for (int32_t kv_index = 0; kv_index < num_kv_dtypes(config); ++kv_index) {
    for (int32_t layer = 0; layer < model.config().num_layers; ++layer) {
      const octavo_kv_shape& shape = kv.layer_shape(kv_index, layer);
      keys_bytes = std::max(keys_bytes, std::min(prefill_scratch_bytes(shape, tokens), kDefaultScratchBytes));
      const auto [found, is_new] = attention_.try_emplace(plan_key(kv_index, layer));
      if (!is_new) continue;
      prepare_attention({shape, model.config().num_q_heads, config.max_num_seqs, config.max_num_batched_tokens},
                        found->second, nullptr);
    }
  }
  share_memory(static_cast<size_t>(keys_bytes));
}

void DeviceForward::share_memory(size_t keys_bytes) {
  const octavo_model_config& about = model_.config();
  const auto bytes = [](int64_t rows, int64_t width, size_t element) {
    const uint64_t exact =
        checked_product("scratch memory", {static_cast<uint64_t>(rows), static_cast<uint64_t>(width), element});
    return static_cast<size_t>((exact + 255) / 256 * 256);
  };
  logits_stride_ = (int64_t{about.vocab_size} + 7) / 8 * 8;
  const int32_t tokens = config_.max_num_batched_tokens;
  const size_t q_bytes = bytes(tokens, int64_t{about.num_q_heads} * about.head_dim, kComputeBytes);
  const size_t qkv_bytes = bytes(tokens, QkvOffsets(about).width, sizeof(float));
  const size_t activation_bytes = bytes(tokens, about.intermediate_size, kComputeBytes);
  const size_t logits_bytes = bytes(config_.max_samples, logits_stride_, sizeof(float));
  const DeviceMatmul::Shared products = matmul_.shared();
  const size_t front = std::max(products.workspace_bytes, q_bytes);
  const size_t rest = std::max({qkv_bytes, products.gate_bytes + activation_bytes, logits_bytes});
  shared_ = GpuMemory(std::max(front + rest, q_bytes + keys_bytes));
  uint8_t* memory = shared_.as<uint8_t>();
  OCTAVO_GPU_CHECK(cudaMemset(memory, 0, shared_.size_bytes()));
  q_ = memory;
  qkv_ = reinterpret_cast<float*>(memory + front);
  activation_ = memory + front + products.gate_bytes;
  logits_ = reinterpret_cast<float*>(memory + front);
  matmul_.use_shared(memory, memory + front);
  for (auto& [key, workspace] : attention_) {
    workspace.use_scratch(keys_bytes == 0 ? nullptr : memory + q_bytes, static_cast<int64_t>(keys_bytes));
  }
}

DeviceForward::PlanKey DeviceForward::plan_key(int32_t kv_index, int32_t layer) const {
  return {kv_index, model_.layers()[static_cast<size_t>(layer)].sliding_window,
          kv_.layer_shape(kv_index, layer).kv_dtype};
}

void DeviceForward::run_layers(const DeviceStep& step, GpuStream stream) {
  prepare(step, stream);
  for (int32_t layer = 0; layer < model_.config().num_layers; ++layer) run_layer(step, layer, stream);
}

// Tables, embeddings with the first norm, RoPE's cosines and sines. The packed step comes by a copy, not a kernel, so that
// nothing may start before it.
void DeviceForward::prepare(const DeviceStep& step, GpuStream stream) {
  const octavo_model_config& config = model_.config();
  UnpackParams unpack = {};
  unpack.packed = reinterpret_cast<const PackedStep*>(scratch_.packed);
  unpack.step_buffer = reinterpret_cast<int32_t*>(scratch_.step_buffer);
  unpack.sampled = scratch_.sampled;
  unpack.tables = scratch_.tables;
  unpack.num_tokens = step.num_tokens;
  unpack.num_seqs = step.num_seqs;
  unpack.num_rows = step.num_rows;
  unpack.max_pages = config_.max_pages_per_seq;
  unpack_step(unpack, stream, false);
  EmbedParams embed = {};
  embed.embedding = model_.token_embedding().data;
  embed.tokens = scratch_.tables.tokens;
  embed.positions = scratch_.tables.positions;
  embed.hidden = scratch_.hidden;
  embed.norm = model_.layer(0).attn_norm;
  embed.normed = scratch_.normed;
  embed.inv_freq = scratch_.inv_freq;
  for (int32_t table = 0; table < 2; ++table) {
    embed.cosines[table] = scratch_.cosines[table];
    embed.sines[table] = scratch_.sines[table];
    embed.rope_factor[table] = config.rope_attn_factor[table];
  }
  embed.scale = config.embedding_scale;
  embed.eps = config.rms_norm_eps;
  embed.num_tokens = step.num_tokens;
  embed.columns = config.hidden_size;
  embed.half = config.head_dim / 2;
  embed.compute_dtype = model_.compute_dtype();
  embed_tokens(embed, stream, true);
}

// Inputs of FP8 products of many tokens are rounded to E4M3 first, unless who made them has done so.
void DeviceForward::multiply(MatmulArgs args, GpuStream stream) {
  if (matmul_.takes_e4m3(*args.w, args.m) && args.x_scales == nullptr) {
    quantize_rows({args.x, scratch_.e4m3, scratch_.e4m3_scales, args.m, args.w->cols, model_.compute_dtype()}, stream,
                  true);
    args.x = scratch_.e4m3;
    args.x_scales = scratch_.e4m3_scales;
  }
  args.x_stride = args.w->cols;
  matmul_.multiply(args, stream, true);
}

// The MatmulArgs of a product of scratch.normed, as norm() has left it for w.
MatmulArgs DeviceForward::of_normed(const DeviceMatrix& w, int32_t m) const {
  MatmulArgs args = {};
  args.w = &w;
  args.m = m;
  args.x = scratch_.normed;
  if (matmul_.takes_e4m3(w, m)) {
    args.x = scratch_.e4m3;
    args.x_scales = scratch_.e4m3_scales;
  }
  return args;
}

void DeviceForward::add_to_hidden(MatmulArgs args, const float* bias, bool has_post_norm, GpuStream stream) {
  args.y = has_post_norm ? scratch_.projected : scratch_.hidden;
  args.y_stride = args.w->rows;
  args.y_dtype = OCTAVO_F32;
  args.bias = bias;
  args.epilogue = has_post_norm ? MatmulEpilogue::kStore : MatmulEpilogue::kAdd;
  multiply(args, stream);
}

void DeviceForward::norm(const DeviceStep& step, const float* post_norm, const float* weight, const DeviceMatrix* next,
                         GpuStream stream) {
  NormParams params = {};
  params.hidden = scratch_.hidden;
  params.projected = post_norm == nullptr ? nullptr : scratch_.projected;
  params.post_norm = post_norm;
  params.norm = weight;
  params.normed = scratch_.normed;
  if (next != nullptr && matmul_.takes_e4m3(*next, step.num_tokens)) {
    params.e4m3 = scratch_.e4m3;
    params.e4m3_scales = scratch_.e4m3_scales;
  }
  params.eps = model_.config().rms_norm_eps;
  params.num_rows = step.num_tokens;
  params.columns = model_.config().hidden_size;
  params.compute_dtype = model_.compute_dtype();
  norm_rows(params, stream, true);
}

void DeviceForward::run_layer(const DeviceStep& step, int32_t index, GpuStream stream) {
  const octavo_model_config& config = model_.config();
  const DeviceLayerWeights& layer = model_.layer(index);
  const bool is_last = index + 1 == config.num_layers;
  MatmulArgs qkv = of_normed(layer.qkv, step.num_tokens);
  if (index == 0) {  // the embedding's norm leaves it in the compute type
    qkv.x = scratch_.normed;
    qkv.x_scales = nullptr;
  }
  qkv.y = qkv_;
  qkv.y_stride = layer.qkv.rows;
  qkv.y_dtype = OCTAVO_F32;
  qkv.bias = layer.qkv_bias;
  multiply(qkv, stream);
  if (step.counts_kv) count_kv(step, index, stream);
  for (const KvGroup& group : step.groups) append(group, index, stream);
  for (const KvGroup& group : step.groups) attend(group, index, stream);
  MatmulArgs attn_out = {};
  attn_out.w = &layer.attn_out;
  attn_out.x = scratch_.attn;
  attn_out.m = step.num_tokens;
  add_to_hidden(attn_out, layer.o_bias, layer.attn_post_norm != nullptr, stream);
  norm(step, layer.attn_post_norm, layer.ffn_norm, &layer.gate_up, stream);
  MatmulArgs gate_up = of_normed(layer.gate_up, step.num_tokens);
  gate_up.y = activation_;
  gate_up.y_stride = config.intermediate_size;
  gate_up.y_dtype = model_.compute_dtype();
  gate_up.epilogue = gate_epilogue(config);
  MatmulArgs down = {};
  down.w = &layer.down;
  down.x = activation_;
  down.m = step.num_tokens;
  if (matmul_.takes_e4m3(layer.down, down.m) && matmul_.makes_e4m3(layer.gate_up, down.m)) {
    gate_up.y_scales = scratch_.activation_scales;
    down.x_scales = scratch_.activation_scales;
  }
  multiply(gate_up, stream);
  add_to_hidden(down, nullptr, layer.ffn_post_norm != nullptr, stream);
  if (!is_last) {
    norm(step, layer.ffn_post_norm, model_.layer(index + 1).attn_norm, &model_.layer(index + 1).qkv, stream);
  } else if (layer.ffn_post_norm != nullptr) {
    norm(step, layer.ffn_post_norm, nullptr, nullptr, stream);
  }
}

AppendParams DeviceForward::append_params(const KvGroup& group, int32_t index) const {
  const octavo_model_config& config = model_.config();
  const QkvOffsets offset(config);
  const int32_t table = model_.layers()[static_cast<size_t>(index)].rope_table;
  AppendParams params = {};
  const int64_t first = group.first_token;
  const float* row = qkv_ + first * offset.width;
  params.kv = kv_geometry(kv_.layer_shape(group.kv_index, index));
  params.k = row + offset.k;
  params.v = row + offset.v;
  params.q_stride = params.k_stride = params.v_stride = offset.width;
  params.k_norm = model_.layer(index).k_norm;
  params.cosines = scratch_.cosines[table] + first * (config.head_dim / 2);
  params.sines = scratch_.sines[table] + first * (config.head_dim / 2);
  params.slot_mapping = scratch_.tables.slot_mapping + first;
  params.num_tokens = group.num_tokens;
  params.head_dim = config.head_dim;
  params.kv_dtype = kv_.layer_shape(group.kv_index, index).kv_dtype;
  params.in_dtype = OCTAVO_F32;
  params.norm_eps = config.rms_norm_eps;
  return params;
}

void DeviceForward::append(const KvGroup& group, int32_t index, GpuStream stream) {
  const octavo_model_config& config = model_.config();
  AppendParams params = append_params(group, index);
  params.pages = kv_.layer_pages(group.kv_index, index);
  params.scales = kv_.layer_scales(group.kv_index, index);
  params.k_mean = kv_.layer_k_mean(group.kv_index, index);
  params.stats = kv_.layer_stats(index);
  params.num_slots = int64_t{config_.num_pages} * page_size_of(config_, group.kv_index);
  params.q = qkv_ + group.first_token * QkvOffsets(config).width;
  params.q_out = q_row(q_, group, config);
  params.q_norm = model_.layer(index).q_norm;
  params.num_q_heads = config.num_q_heads;
  params.q_out_dtype = model_.compute_dtype();
  append_gpu(params, stream, true);
}

// What counts is K after its norm and RoPE: an append that has no slots and takes K for Q leaves it in scratch.keys.
void DeviceForward::count_kv(const DeviceStep& step, int32_t index, GpuStream stream) {
  const octavo_model_config& config = model_.config();
  AppendParams params = append_params({0, 0, step.num_seqs, 0, step.num_tokens, step.max_query_len, 0, 0, 0}, index);
  params.q = params.k;
  params.q_out = scratch_.keys;
  params.q_norm = params.k_norm;
  params.num_q_heads = config.num_kv_heads;
  params.q_out_dtype = OCTAVO_F32;
  append_gpu(params, stream, true);
  if (kv_.calculated().is_counting() && kv_.takes_scales_in(index)) calculate_scales(step, index, stream);
  if (kv_.histograms() == nullptr) return;
  KvHistogramParams histogram = {};
  histogram.values[0] = scratch_.keys;
  histogram.values[1] = qkv_ + QkvOffsets(config).v;
  histogram.stride[0] = int64_t{config.num_kv_heads} * config.head_dim;
  histogram.stride[1] = QkvOffsets(config).width;
  histogram.num_tokens = step.num_tokens;
  histogram.num_kv_heads = config.num_kv_heads;
  histogram.head_dim = config.head_dim;
  kv_.histograms()->add(index, histogram, stream);
}

void DeviceForward::calculate_scales(const DeviceStep& step, int32_t index, GpuStream stream) {
  const octavo_model_config& config = model_.config();
  const int64_t width = int64_t{config.num_kv_heads} * config.head_dim;
  KvScalesParams scales = {};
  scales.values[0] = scratch_.keys;
  scales.values[1] = qkv_ + QkvOffsets(config).v;
  scales.stride[0] = width;
  scales.stride[1] = QkvOffsets(config).width;
  scales.width = static_cast<int32_t>(width);
  scales.num_tokens = step.num_tokens;
  scales.num_kv_heads = config.num_kv_heads;
  scales.divisor[0] = kScaleDivisor[0];
  scales.divisor[1] = kScaleDivisor[1];
  scales.absmax = kv_.layer_absmax(index);
  scales.scales = kv_.calculated().is_set() ? nullptr : kv_.all_layer_scales(index);
  calculate_kv_scales(scales, stream, true);
}

void DeviceForward::attend(const KvGroup& group, int32_t index, GpuStream stream) {
  const octavo_model_config& config = model_.config();
  const int32_t window = model_.layers()[static_cast<size_t>(index)].sliding_window;
  bool has_plan = false;
  for (int32_t before = 0; before < index && !has_plan; ++before) {
    has_plan = plan_key(group.kv_index, before) == plan_key(group.kv_index, index);
  }
  PagedAttentionArgs args = {};
  args.shape = kv_.layer_shape(group.kv_index, index);
  args.config.num_seqs = group.num_seqs;
  args.config.num_tokens = group.num_tokens;
  args.config.num_q_heads = config.num_q_heads;
  args.config.max_pages_per_seq = config_.max_pages_per_seq;
  args.config.sliding_window = window;
  args.config.softmax_scale = config.attn_softmax_scale;
  args.config.logit_softcap = config.attn_logit_softcap;
  args.config.q_dtype = model_.compute_dtype();
  args.config.max_query_len = group.max_query_len;
  args.config.reuse_plan = has_plan ? 1 : 0;
  args.pages = kv_.layer_pages(group.kv_index, index);
  args.q = q_row(q_, group, config);
  args.query_len = group.max_query_len == 1 ? nullptr : scratch_.tables.query_len + group.first_seq;
  args.seq_len = scratch_.tables.seq_len + group.first_seq;
  args.page_table = scratch_.tables.page_table + int64_t{group.first_seq} * config_.max_pages_per_seq;
  args.scales = kv_.layer_scales(group.kv_index, index);
  args.sinks = model_.layer(index).attn_sinks;
  args.out = q_row(scratch_.attn, group, config);
  args.max_query_len = group.max_query_len;
  args.max_decode_len = group.max_decode_len;
  args.shortest_prompt = group.shortest_prompt;
  args.prompt_granules = group.prompt_granules;
  args.early = true;  // the kernels between it and the last step wrote this step's tokens
  paged_attention(args, attention_.at(plan_key(group.kv_index, index)), stream, true);
}

// The output norm and head.
void DeviceForward::compute_logits(const int32_t* tokens, int32_t num_rows, GpuStream stream) {
  NormParams norm = {};
  norm.hidden = scratch_.hidden;
  norm.norm = model_.output_norm();
  norm.normed = scratch_.head_input;
  norm.rows = tokens;
  norm.eps = model_.config().rms_norm_eps;
  norm.num_rows = num_rows;
  norm.columns = model_.config().hidden_size;
  norm.compute_dtype = model_.compute_dtype();
  norm_rows(norm, stream, true);
  MatmulArgs head = {};
  head.w = &model_.lm_head();
  head.x = scratch_.head_input;
  head.m = num_rows;
  head.y = logits_;
  head.y_stride = logits_stride_;
  head.y_dtype = OCTAVO_F32;
  multiply(head, stream);
  const float cap = model_.config().final_logit_softcap;
  if (cap > 0) softcap_logits({logits_, num_rows * logits_stride_, cap}, stream, true);
}

}  // namespace octavo
