// A model whose weights lie in a GPU's memory: its matrices as the products want them, its vectors in f32, all immutable
// once finished. Engines share it.
//
// Every matrix is row-major, [rows][cols] as in the file, and aligned to 256 bytes. Its elements are of compute_dtype(),
// or E4M3 with one f32 scale a row (checkpoints that bring FP8 weights, and octavo_model_config.quantization). The token
// embedding and the output head are always of compute_dtype().
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "gemm/device_matrix.h"
#include "octavo.h"

namespace octavo {

// One decoder layer. Vectors are on the device; nullptr where the model has none.
struct DeviceLayerWeights {
  DeviceMatrix qkv;       // rows of q, then k, then v: (num_q_heads + 2 * num_kv_heads) * head_dim x hidden_size
  DeviceMatrix attn_out;  // hidden_size x num_q_heads * head_dim
  DeviceMatrix gate_up;   // rows of gate, then up: 2 * intermediate_size x hidden_size
  DeviceMatrix down;      // hidden_size x intermediate_size

  const float* attn_norm;       // f32[hidden_size]; norm_weight_offset is already added to every norm
  const float* attn_post_norm;  // f32[hidden_size] or nullptr
  const float* ffn_norm;        // f32[hidden_size]
  const float* ffn_post_norm;   // f32[hidden_size] or nullptr
  const float* q_norm;          // f32[head_dim] or nullptr
  const float* k_norm;          // f32[head_dim] or nullptr
  const float* qkv_bias;        // f32[qkv.rows], 0 where only some of q, k, v have one; or nullptr
  const float* o_bias;          // f32[hidden_size] or nullptr
  const float* attn_sinks;      // f32[num_q_heads] or nullptr
};

class DeviceModel {
 public:
  bool is_finished() const;
  const octavo_model_config& config() const;
  const std::vector<octavo_layer_config>& layers() const;

  // OCTAVO_BF16 or OCTAVO_F16: the activations' type.
  int32_t compute_dtype() const;

  const DeviceLayerWeights& layer(int32_t index) const;
  const DeviceMatrix& token_embedding() const;  // vocab_size x hidden_size
  const DeviceMatrix& lm_head() const;          // vocab_size x hidden_size; the embedding itself where they are tied
  const float* output_norm() const;             // device f32[hidden_size]
  // RoPE's inverse frequencies, rope_factors applied: host f32[head_dim / 2] of table 0 or 1.
  const float* inv_freq(int32_t table) const;

  uint64_t weight_bytes() const;  // of device memory
};

// The handle's model; it lives as long as one of its owners. Throws Error when it is not finished.
std::shared_ptr<const DeviceModel> finished_device_model(const octavo_model& model);

}  // namespace octavo
