// A model whose weights lie in a GPU's memory: its matrices as the products want them, its vectors in f32, all immutable
// once finished. Engines share it.
//
// Every matrix is row-major, [rows][cols] as in the file, and aligned to 256 bytes. Its elements are of compute_dtype(),
// or E4M3 with one f32 scale a row (checkpoints that bring FP8 weights, and octavo_model_config.quantization). The token
// embedding and the output head are always of compute_dtype().
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "arch/gpu_memory.h"
#include "gemm/device_matrix.h"
#include "model/device_loader.h"
#include "model/model_base.h"
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

class DeviceModel final : public ModelBase {
 public:
  // Arguments as octavo_model_create's. Throws Error, also where there is no usable device.
  DeviceModel(const octavo_model_config& config, const octavo_layer_config* layers, const float* inv_freq);
  ~DeviceModel() override;

  // OCTAVO_BF16 or OCTAVO_F16: the activations' type.
  int32_t compute_dtype() const { return config().compute_dtype; }

  const DeviceLayerWeights& layer(int32_t index) const { return layer_weights_[static_cast<size_t>(index)]; }
  const DeviceMatrix& token_embedding() const { return token_embedding_; }  // vocab_size x hidden_size
  // vocab_size x hidden_size; the embedding itself where they are tied
  const DeviceMatrix& lm_head() const { return lm_head_.data != nullptr ? lm_head_ : token_embedding_; }
  const float* output_norm() const { return output_norm_; }  // device f32[hidden_size]

 private:
  struct MatrixPlace;

  void load_matrix(CheckedTensor tensor) override;
  void load_vector(const CheckedTensor& tensor, std::vector<float> values) override;
  void end_loading() override;
  MatrixPlace matrix_place(const octavo_tensor& tensor);
  const float** vector_place(const octavo_tensor& tensor);
  DeviceMatrix load_stacked(const std::map<int32_t, CheckedTensor>& parts, bool may_be_fp8);
  void load_qkv_bias(const CheckedTensor& tensor, const std::vector<float>& values);
  GpuMemory& allocate(size_t size_bytes);
  float* allocate_vector(size_t length);

  std::vector<DeviceLayerWeights> layer_weights_;
  DeviceMatrix token_embedding_ = {};
  DeviceMatrix lm_head_ = {};
  const float* output_norm_ = nullptr;
  std::vector<GpuMemory> memory_;
  uint8_t* slab_ = nullptr;  // where vectors go, one after another
  size_t slab_left_bytes_ = 0;
  // Until finished.
  std::map<const DeviceMatrix*, std::map<int32_t, CheckedTensor>> waiting_;  // parts of matrices, others to come
  std::unique_ptr<DeviceLoader> loader_;
};

// The handle's model; it lives as long as one of its owners. Throws Error (OCTAVO_INVALID_ARGUMENT) unless it is finished.
std::shared_ptr<const DeviceModel> finished_device_model(const octavo_model& model);

}  // namespace octavo
