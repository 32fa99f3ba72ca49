// What DeviceModel keeps of a small model, bit for bit against the host's own conversion: every dtype of a file, both
// compute dtypes, FP8 weights as they come and quantised at load, heads with interleaved pairs, made-up weights.
// test_weights.py compiles and runs it: the ABI has no way to read weights back.
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "gemm/elements.h"
#include "gemm/file_block.h"
#include "model/device_weights.h"
#include "model/random_weights.h"

namespace {

constexpr int kHidden = 512, kInner = 768, kQHeads = 4, kKvHeads = 2, kHeadDim = 64, kVocab = 1000, kLayers = 2;

struct Case {
  std::string name;
  int32_t dtype;  // of matrices
  int32_t compute_dtype;
  int32_t quantization = OCTAVO_QUANTIZATION_NONE;
  bool is_interleaved = false;
  bool is_made_up = false;
  bool has_scale_per_row = false;
  int32_t v_dtype = -1;  // of v_proj, where it is another
};

void require(bool condition, const Case& test, const char* what, long long index) {
  if (condition) return;
  std::printf("%s: %s differs at %lld\n", test.name.c_str(), what, index);
  std::exit(1);
}

// Offsets of the f16 fields of a block.
std::vector<int> half_offsets(int32_t dtype) {
  switch (dtype) {
    case OCTAVO_Q4_1: case OCTAVO_Q5_1: case OCTAVO_Q4_K: case OCTAVO_Q5_K: return {0, 2};
    case OCTAVO_Q2_K: return {80, 82};
    case OCTAVO_Q3_K: return {108};
    case OCTAVO_Q6_K: return {208};
    default: return {0};
  }
}

std::mt19937 random_bits(5);

std::vector<uint8_t> random_tensor(int32_t dtype, int rows, int cols) {
  std::vector<uint8_t> bytes(octavo::tensor_bytes(dtype, rows, cols));
  std::normal_distribution<float> normal(0, 0.1f);
  const int element_bytes = octavo::plain_bytes(dtype);
  if (dtype == OCTAVO_F8_E4M3) {
    for (uint8_t& byte : bytes) {
      byte = static_cast<uint8_t>(random_bits());
      if ((byte & 0x7F) == 0x7F) --byte;  // NaN
    }
  } else if (element_bytes > 0) {
    for (size_t i = 0; i < bytes.size(); i += element_bytes) {
      const float value = normal(random_bits);
      const uint16_t half = dtype == OCTAVO_BF16 ? octavo::float_to_bf16(value) : __half_as_ushort(__float2half_rn(value));
      std::memcpy(&bytes[i], element_bytes == 4 ? static_cast<const void*>(&value) : &half, element_bytes);
    }
  } else {
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random_bits());
    const octavo::Format& format = octavo::kFormats[octavo::find_format(dtype)];
    for (size_t at = 0; at < bytes.size(); at += format.block_bytes) {
      for (const int offset : half_offsets(dtype)) {
        const uint16_t half = __half_as_ushort(__float2half_rn(0.01f * normal(random_bits)));
        std::memcpy(&bytes[at + offset], &half, 2);
      }
    }
  }
  return bytes;
}

// A tensor's values as the file means them, before any reordering.
std::vector<float> decode(int32_t dtype, const std::vector<uint8_t>& bytes, size_t count) {
  std::vector<float> values(count);
  if (const int element_bytes = octavo::plain_bytes(dtype); element_bytes > 0) {
    for (size_t i = 0; i < count; ++i) values[i] = octavo::load_element(dtype, &bytes[i * element_bytes]);
    return values;
  }
  const octavo::Format& format = octavo::kFormats[octavo::find_format(dtype)];
  for (size_t block = 0; block < count / format.block_cols; ++block) {
    octavo::dequantize_block(format, &bytes[block * format.block_bytes], &values[block * format.block_cols]);
  }
  return values;
}

struct Tensor {
  std::vector<float> values;  // FP8: without scales
  std::vector<float> scales;  // FP8: one a row
  int32_t dtype;
  int rows, cols;
};

class TestModel {
 public:
  explicit TestModel(const Case& test) : test_(test) {
    config_ = {kVocab, kHidden, kInner, kLayers, kQHeads, kKvHeads, kHeadDim, 128, OCTAVO_SILU, 0,
               test.compute_dtype, test.quantization, 1e-5f, 1.0f, 1.0f, 0.125f, 0, 0, {1, 1}};
    const std::vector<octavo_layer_config> layers(kLayers, octavo_layer_config{});
    const std::vector<float> inv_freq(kHeadDim, 1.0f);
    model_ = std::make_shared<octavo::DeviceModel>(config_, layers.data(), inv_freq.data());
    for (const int32_t role : octavo::all_roles()) {
      if (role == OCTAVO_ROLE_ROPE_FACTORS || role == OCTAVO_ROLE_LM_HEAD) continue;
      for (int layer = 0; layer < (octavo::is_layer_role(role) ? kLayers : 1); ++layer) add(role, layer);
    }
    load();
  }

  void check() {
    check_matrix(model_->token_embedding(), {{OCTAVO_ROLE_TOKEN_EMBEDDING, -1}}, "token_embedding");
    require(model_->lm_head().data == model_->token_embedding().data, test_, "lm_head", 0);
    check_vector(model_->output_norm(), {{OCTAVO_ROLE_OUTPUT_NORM, -1}}, "output_norm");
    for (int l = 0; l < kLayers; ++l) {
      const octavo::DeviceLayerWeights& layer = model_->layer(l);
      check_matrix(layer.qkv, {{OCTAVO_ROLE_Q_PROJ, l}, {OCTAVO_ROLE_K_PROJ, l}, {OCTAVO_ROLE_V_PROJ, l}}, "qkv");
      check_matrix(layer.attn_out, {{OCTAVO_ROLE_O_PROJ, l}}, "attn_out");
      check_matrix(layer.gate_up, {{OCTAVO_ROLE_GATE_PROJ, l}, {OCTAVO_ROLE_UP_PROJ, l}}, "gate_up");
      check_matrix(layer.down, {{OCTAVO_ROLE_DOWN_PROJ, l}}, "down");
      check_vector(layer.attn_norm, {{OCTAVO_ROLE_ATTN_NORM, l}}, "attn_norm");
      check_vector(layer.ffn_post_norm, {{OCTAVO_ROLE_FFN_POST_NORM, l}}, "ffn_post_norm");
      check_vector(layer.k_norm, {{OCTAVO_ROLE_K_NORM, l}}, "k_norm");
      check_vector(layer.o_bias, {{OCTAVO_ROLE_O_BIAS, l}}, "o_bias");
      check_vector(layer.attn_sinks, {{OCTAVO_ROLE_ATTN_SINKS, l}}, "attn_sinks");
      check_vector(layer.qkv_bias, {{OCTAVO_ROLE_Q_BIAS, l}, {OCTAVO_ROLE_K_BIAS, l}, {OCTAVO_ROLE_V_BIAS, l}},
                   "qkv_bias");
    }
  }

 private:
  using Key = std::pair<int32_t, int32_t>;

  void add(int32_t role, int layer) {
    const octavo::RoleInfo info = octavo::role_info(role, config_);
    if (!octavo::is_layer_role(role)) layer = -1;
    const int32_t matrix_dtype = role == OCTAVO_ROLE_V_PROJ && test_.v_dtype >= 0 ? test_.v_dtype : test_.dtype;
    const bool is_fp8_place = octavo::is_layer_role(role) || matrix_dtype != OCTAVO_F8_E4M3;
    const int32_t dtype = info.is_matrix && is_fp8_place ? matrix_dtype : static_cast<int32_t>(OCTAVO_BF16);
    octavo_tensor place = {role, layer, dtype, 0, static_cast<int64_t>(file_.size()), 0, info.rows, info.cols, 0, 0, 0, 0, 0};
    place.size_bytes = static_cast<int64_t>(octavo::tensor_bytes(dtype, info.rows, info.cols));
    Tensor tensor = {{}, {}, dtype, info.rows, info.cols};
    const size_t count = static_cast<size_t>(info.rows) * info.cols;
    if (test_.is_made_up) {
      place.file = OCTAVO_FILE_RANDOM;
      place.offset_bytes = 42;
      const uint64_t stream = octavo::random_stream(42, role, layer);
      for (size_t i = 0; i < count; ++i) {
        const float value = octavo::bf16_to_float(octavo::float_to_bf16(octavo::random_normal(stream, i)));
        tensor.values.push_back(info.is_norm ? 0 : value);
      }
    } else {
      const std::vector<uint8_t> bytes = random_tensor(dtype, info.rows, info.cols);
      file_.insert(file_.end(), bytes.begin(), bytes.end());
      tensor.values = decode(dtype, bytes, count);
      if (test_.is_interleaved && info.num_heads > 0) {
        place.interleaved_heads = info.num_heads;
        tensor.values = to_halves(tensor.values, info.num_heads, count / info.num_heads / kHeadDim);
      }
      if (dtype == OCTAVO_F8_E4M3) add_scales(place, tensor);
    }
    if (info.is_norm) {
      for (float& value : tensor.values) value += config_.norm_weight_offset;
    }
    places_.push_back(place);
    tensors_[{role, layer}] = tensor;
  }

  void add_scales(octavo_tensor& place, Tensor& tensor) {
    place.num_scales = test_.has_scale_per_row ? place.rows : 1;
    place.scale_dtype = OCTAVO_F32;
    place.scale_offset_bytes = static_cast<int64_t>(file_.size());
    std::uniform_real_distribution<float> uniform(1e-3f, 2e-3f);
    for (int i = 0; i < place.num_scales; ++i) {
      const float scale = uniform(random_bits);
      const uint8_t* bytes = reinterpret_cast<const uint8_t*>(&scale);
      file_.insert(file_.end(), bytes, bytes + 4);
      tensor.scales.push_back(scale);
    }
    tensor.scales.resize(place.rows, tensor.scales[0]);
  }

  static std::vector<float> to_halves(const std::vector<float>& values, int heads, size_t cols) {
    std::vector<float> moved(values.size());
    for (int row = 0; row < heads * kHeadDim; ++row) {
      const int i = row % kHeadDim, half = kHeadDim / 2;
      const int from = row - i + (i < half ? 2 * i : 2 * (i - half) + 1);
      std::copy_n(&values[from * cols], cols, &moved[row * cols]);
    }
    return moved;
  }

  void load() {
    char path[] = "/tmp/octavo-weights-XXXXXX";
    const int file = mkstemp(path);
    if (!test_.is_made_up && write(file, file_.data(), file_.size()) != static_cast<ssize_t>(file_.size())) std::exit(2);
    close(file);
    if (!test_.is_made_up) model_->add_file(path);
    for (const octavo_tensor& place : places_) model_->load_tensor(place);
    model_->finish();
    unlink(path);
  }

  void check_vector(const float* device, const std::vector<Key>& keys, const char* what) {
    for (const Key& key : keys) {
      const Tensor& tensor = tensors_.at(key);
      std::vector<float> found(tensor.values.size());
      OCTAVO_GPU_CHECK(cudaMemcpy(found.data(), device, found.size() * 4, cudaMemcpyDeviceToHost));
      for (size_t i = 0; i < found.size(); ++i) require(found[i] == tensor.values[i], test_, what, i);
      device += found.size();
    }
  }

  void check_matrix(const octavo::DeviceMatrix& matrix, const std::vector<Key>& keys, const char* what) {
    const bool is_layer = keys[0].second >= 0;
    bool is_fp8 = is_layer;
    int rows = 0;
    for (const Key& key : keys) {
      rows += tensors_.at(key).rows;
      is_fp8 = is_fp8 && (tensors_.at(key).dtype == OCTAVO_F8_E4M3 || test_.quantization != 0);
    }
    const int element_bytes = is_fp8 ? 1 : 2;
    require(matrix.rows == rows && matrix.cols == tensors_.at(keys[0]).cols, test_, what, -1);
    require(matrix.dtype == (is_fp8 ? static_cast<int32_t>(OCTAVO_F8_E4M3) : test_.compute_dtype), test_, what, -2);
    require(reinterpret_cast<uintptr_t>(matrix.data) % 256 == 0, test_, what, -3);
    require((matrix.row_scales != nullptr) == is_fp8, test_, what, -4);
    std::vector<uint8_t> found(static_cast<size_t>(rows) * matrix.cols * element_bytes);
    std::vector<float> scales(is_fp8 ? rows : 0);
    OCTAVO_GPU_CHECK(cudaMemcpy(found.data(), matrix.data, found.size(), cudaMemcpyDeviceToHost));
    if (is_fp8) OCTAVO_GPU_CHECK(cudaMemcpy(scales.data(), matrix.row_scales, rows * 4, cudaMemcpyDeviceToHost));
    size_t row = 0;
    for (const Key& key : keys) {
      const Tensor& tensor = tensors_.at(key);
      for (int r = 0; r < tensor.rows; ++r, ++row) {
        check_row(tensor, r, found.data() + row * matrix.cols * element_bytes, is_fp8 ? &scales[row] : nullptr, what);
      }
    }
  }

  void check_row(const Tensor& tensor, int row, const uint8_t* found, const float* found_scale, const char* what) {
    const float* values = &tensor.values[static_cast<size_t>(row) * tensor.cols];
    const bool has_scales = !tensor.scales.empty();
    float scale = 1;  // of FP8 elements that stay as they are
    if (found_scale != nullptr && !has_scales) {
      float largest = 0;
      for (int i = 0; i < tensor.cols; ++i) largest = std::max(largest, std::fabs(values[i]));
      scale = largest / 448.0f;
    }
    if (found_scale != nullptr) {
      require(*found_scale == (has_scales ? tensor.scales[row] : scale), test_, "a row's scale", row);
    }
    for (int i = 0; i < tensor.cols; ++i) {
      if (found_scale != nullptr) {
        const uint8_t expected = __nv_cvt_float_to_fp8(values[i] / scale, __NV_SATFINITE, __NV_E4M3);
        require(found[i] == expected, test_, what, int64_t{row} * tensor.cols + i);
        continue;
      }
      const float value = has_scales ? values[i] * tensor.scales[row] : values[i];
      const uint16_t expected = test_.compute_dtype == OCTAVO_BF16 ? octavo::float_to_bf16(value)
                                                                   : __half_as_ushort(__float2half_rn(value));
      uint16_t stored;
      std::memcpy(&stored, found + 2 * i, 2);
      require(stored == expected, test_, what, int64_t{row} * tensor.cols + i);
    }
  }

  Case test_;
  octavo_model_config config_;
  std::shared_ptr<octavo::DeviceModel> model_;
  std::vector<uint8_t> file_ = {0, 0, 0};  // so that tensors are not aligned
  std::vector<octavo_tensor> places_;
  std::map<Key, Tensor> tensors_;
};

void run(const Case& test) {
  TestModel model(test);
  model.check();
}

}  // namespace

int main() {
  for (const octavo::Format& format : octavo::kFormats) {
    run({std::string(format.name) + " as F16, interleaved", format.dtype, OCTAVO_F16, 0, true});
    run({std::string(format.name) + " as BF16", format.dtype, OCTAVO_BF16});
    run({std::string(format.name) + " as FP8, interleaved", format.dtype, OCTAVO_BF16, OCTAVO_QUANTIZATION_FP8, true});
  }
  run({"FP8 with a scale", OCTAVO_F8_E4M3, OCTAVO_BF16});
  run({"FP8 with a scale a row", OCTAVO_F8_E4M3, OCTAVO_BF16, 0, false, false, true});
  run({"FP8 with a BF16 v_proj", OCTAVO_F8_E4M3, OCTAVO_BF16, 0, false, false, true, OCTAVO_BF16});
  run({"FP8 with an F16 v_proj, quantised", OCTAVO_F8_E4M3, OCTAVO_F16, OCTAVO_QUANTIZATION_FP8, false, false, false,
       OCTAVO_F16});
  run({"Q4_K with a Q6_K v_proj", OCTAVO_Q4_K, OCTAVO_F16, 0, true, false, false, OCTAVO_Q6_K});
  run({"made up as BF16", OCTAVO_BF16, OCTAVO_BF16, 0, false, true});
  run({"made up as F16", OCTAVO_BF16, OCTAVO_F16, 0, false, true});
  run({"made up as FP8", OCTAVO_BF16, OCTAVO_BF16, OCTAVO_QUANTIZATION_FP8, false, true});
  std::puts("weights: ok");
  return 0;
}
