#include "model/device_scratch.h"

#include <algorithm>

#include "model/checked_size.h"
#include "model/pack_step.h"

namespace octavo {
namespace {

constexpr uint64_t kComputeBytes = 2;

bool has_post_norms(const DeviceModel& model) {
  return model.layer(0).attn_post_norm != nullptr || model.layer(0).ffn_post_norm != nullptr;
}

bool uses_rope_table(const DeviceModel& model, int32_t table) {
  return std::any_of(model.layers().begin(), model.layers().end(),
                     [table](const octavo_layer_config& layer) { return layer.rope_table == table; });
}

}  // namespace

int32_t widest_e4m3_input(const DeviceModel& model) {
  int32_t widest = 0;
  for (int32_t i = 0; i < model.config().num_layers; ++i) {
    const DeviceLayerWeights& layer = model.layer(i);
    for (const DeviceMatrix* matrix : {&layer.qkv, &layer.attn_out, &layer.gate_up, &layer.down}) {
      if (matrix->dtype == OCTAVO_F8_E4M3) widest = std::max(widest, matrix->cols);
    }
  }
  return widest;
}

template <class T>
void DeviceScratch::place(T*& pointer, uint64_t count, uint64_t width, uint64_t element_bytes) {
  places_.push_back({reinterpret_cast<void**>(&pointer), end_bytes_});
  end_bytes_ += (checked_product("scratch memory", {count, width, element_bytes}) + 255) / 256 * 256;
}

void DeviceScratch::place_rows(const DeviceModel& model, const octavo_engine_config& config) {
  const octavo_model_config& about = model.config();
  const uint64_t tokens = static_cast<uint64_t>(config.max_num_batched_tokens);
  const uint64_t hidden_size = static_cast<uint64_t>(about.hidden_size);
  const uint64_t half = static_cast<uint64_t>(about.head_dim) / 2;
  const uint64_t q_width = static_cast<uint64_t>(about.num_q_heads) * static_cast<uint64_t>(about.head_dim);
  const uint64_t kv_width = static_cast<uint64_t>(about.num_kv_heads) * static_cast<uint64_t>(about.head_dim);
  place(hidden, tokens, hidden_size, sizeof(float));
  place(normed, tokens, std::max(hidden_size, q_width), kComputeBytes);
  if (has_post_norms(model)) place(projected, tokens, hidden_size, sizeof(float));
  for (int32_t table = 0; table < 2; ++table) {
    if (!uses_rope_table(model, table)) continue;
    place(cosines[table], tokens, half, sizeof(float));
    place(sines[table], tokens, half, sizeof(float));
  }
  place(inv_freq, 2, half, sizeof(float));
  if (widest_e4m3_input(model) > 0) {
    place(e4m3, tokens, static_cast<uint64_t>(widest_e4m3_input(model)), 1);
    place(e4m3_scales, tokens, 1, sizeof(float));
    place(activation_scales, tokens, 1, sizeof(float));
  }
  if (config.calculate_kv_scales != 0 || config.kv_stats == OCTAVO_KV_STATS_HISTOGRAMS) {
    place(keys, tokens, kv_width, sizeof(float));
  }
}

DeviceScratch::DeviceScratch(const DeviceModel& model, const octavo_engine_config& config,
                             const octavo_step_layout& layout)
    : projected(nullptr), cosines{}, sines{}, e4m3(nullptr), e4m3_scales(nullptr), activation_scales(nullptr), keys(nullptr) {
  const uint64_t tokens = static_cast<uint64_t>(config.max_num_batched_tokens);
  const uint64_t rows = static_cast<uint64_t>(config.max_samples);
  place(step_buffer, 1, static_cast<uint64_t>(layout.total_bytes), 1);
  place(packed, 1, static_cast<uint64_t>(max_packed_bytes(config, layout)), 1);
  place(tables.positions, tokens, 1, sizeof(int32_t));
  place(tables.slot_mapping, tokens, 1, sizeof(int32_t));
  place(tables.rows, rows, 1, sizeof(StepRow));
  place(tables.row_token, rows, 1, sizeof(int32_t));
  place_rows(model, config);
  place(head_input, rows, static_cast<uint64_t>(model.config().hidden_size), kComputeBytes);
  memory_ = GpuMemory(end_bytes_);
  OCTAVO_GPU_CHECK(cudaMemset(memory_.as<uint8_t>(), 0, memory_.size_bytes()));
  for (const Place& one : places_) *one.pointer = memory_.as<uint8_t>() + one.offset_bytes;
  attn = normed;
  const auto table = [&](int32_t offset_bytes) { return reinterpret_cast<int32_t*>(step_buffer + offset_bytes); };
  sampled = table(layout.sampled);
  tables.tokens = table(layout.tokens);
  tables.query_len = table(layout.query_len);
  tables.seq_len = table(layout.seq_len);
  tables.page_table = table(layout.page_table);
  const size_t half = static_cast<size_t>(model.config().head_dim) / 2;
  for (int32_t i = 0; i < 2; ++i) {
    OCTAVO_GPU_CHECK(cudaMemcpy(inv_freq + static_cast<size_t>(i) * half, model.inv_freq(i), half * sizeof(float),
                                cudaMemcpyHostToDevice));
  }
}

}  // namespace octavo
