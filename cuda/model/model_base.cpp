#include "model/model_base.h"

#include <cmath>

#include "arch/error.h"
#include "gemm/elements.h"
#include "gemm/format.h"
#include "model/model_config.h"
#include "model/random_weights.h"

namespace octavo {
namespace {

void check_layer(const octavo_tensor& tensor, const RoleInfo& info, int32_t num_layers) {
  if (!is_layer_role(tensor.role)) {
    if (tensor.layer != -1) {
      fail(OCTAVO_INVALID_ARGUMENT, "layer of %s must be -1, found %d", info.name, tensor.layer);
    }
  } else if (tensor.layer < 0 || tensor.layer >= num_layers) {
    fail(OCTAVO_INVALID_ARGUMENT, "layer of %s must be 0 to %d, found %d", info.name, num_layers - 1, tensor.layer);
  }
}

void check_shape(const octavo_tensor& tensor, const RoleInfo& info, const char* name) {
  if (tensor.rows != info.rows || tensor.cols != info.cols) {
    fail(OCTAVO_INVALID_ARGUMENT, "%s must be %d x %d, found %d x %d", name, info.rows, info.cols, tensor.rows,
         tensor.cols);
  }
  if (tensor.interleaved_heads != 0 && tensor.interleaved_heads != info.num_heads) {
    fail(OCTAVO_INVALID_ARGUMENT, "interleaved_heads of %s must be 0%s, found %d", name,
         info.num_heads > 0 ? (" or " + std::to_string(info.num_heads)).c_str() : "", tensor.interleaved_heads);
  }
  const uint64_t needed = tensor_bytes(tensor.dtype, tensor.rows, tensor.cols);
  if (needed == 0) {
    fail(OCTAVO_UNSUPPORTED, "%s has dtype %d, which is unknown or does not divide %d columns", name, tensor.dtype,
         tensor.cols);
  }
  const bool is_vector_dtype =
      tensor.dtype == OCTAVO_F32 || tensor.dtype == OCTAVO_F16 || tensor.dtype == OCTAVO_BF16;
  if (!info.is_matrix && !is_vector_dtype) {
    fail(OCTAVO_UNSUPPORTED, "%s must be F32, F16 or BF16, found dtype %d", name, tensor.dtype);
  }
  if (tensor.size_bytes < 0 || static_cast<uint64_t>(tensor.size_bytes) != needed) {
    fail(OCTAVO_INVALID_ARGUMENT, "%s (%d x %d, dtype %d) must have %llu bytes, found %lld", name, tensor.rows,
         tensor.cols, tensor.dtype, static_cast<unsigned long long>(needed),
         static_cast<long long>(tensor.size_bytes));
  }
}

void check_scales(const octavo_tensor& tensor, const char* name) {
  if (tensor.dtype != OCTAVO_F8_E4M3) {
    if (tensor.num_scales != 0) {
      fail(OCTAVO_INVALID_ARGUMENT, "num_scales of %s must be 0, found %d", name, tensor.num_scales);
    }
    return;
  }
  if (tensor.num_scales != 1 && tensor.num_scales != tensor.rows) {
    fail(OCTAVO_INVALID_ARGUMENT, "num_scales of %s must be 1 or %d, found %d", name, tensor.rows, tensor.num_scales);
  }
  if (tensor.scale_dtype != OCTAVO_F32 && tensor.scale_dtype != OCTAVO_F16 && tensor.scale_dtype != OCTAVO_BF16) {
    fail(OCTAVO_UNSUPPORTED, "scales of %s must be F32, F16 or BF16, found dtype %d", name, tensor.scale_dtype);
  }
  if (tensor.interleaved_heads != 0) {
    fail(OCTAVO_UNSUPPORTED, "interleaved_heads of %s must be 0 for FP8 weights, found %d", name,
         tensor.interleaved_heads);
  }
}

// The source row of each row: RoPE's pairs move from side by side to halves, head by head.
//
//   source  0 1 2 3 4 5 ... of a head      rows i, i + head_dim / 2  <-  2 i, 2 i + 1
//   rows    0 2 4 ... | 1 3 5 ...
std::vector<int32_t> halves_order(int32_t num_heads, int32_t head_dim) {
  std::vector<int32_t> order;
  order.reserve(static_cast<size_t>(num_heads) * static_cast<size_t>(head_dim));
  for (int32_t head = 0; head < num_heads; ++head) {
    for (int32_t i = 0; i < head_dim; ++i) {
      const int32_t half = head_dim / 2;
      order.push_back(head * head_dim + (i < half ? 2 * i : 2 * (i - half) + 1));
    }
  }
  return order;
}

}  // namespace

ModelBase::ModelBase(const octavo_model_config& config, const octavo_layer_config* layers, const float* inv_freq)
    : config_(config) {
  check_model_config(config, layers, inv_freq);
  layers_.assign(layers, layers + config.num_layers);
  inv_freq_.assign(inv_freq, inv_freq + config.head_dim);
}

int32_t ModelBase::add_file(const char* path) {
  if (is_finished_) fail(OCTAVO_INVALID_ARGUMENT, "cannot add \"%s\": the model is finished", path);
  files_.emplace_back(path);
  return static_cast<int32_t>(files_.size()) - 1;
}

const uint8_t* ModelBase::find_source(int32_t file, int64_t offset_bytes, uint64_t size_bytes,
                                      const char* name) const {
  const int32_t num_files = static_cast<int32_t>(files_.size());
  if (file < 0 || file >= num_files) {
    fail(OCTAVO_INVALID_ARGUMENT, "file of %s must be 0 to %d, found %d", name, num_files - 1, file);
  }
  const MappedFile& mapped = files_[static_cast<size_t>(file)];
  if (offset_bytes < 0 || size_bytes > mapped.size_bytes() ||
      static_cast<uint64_t>(offset_bytes) > mapped.size_bytes() - size_bytes) {
    fail(OCTAVO_INVALID_ARGUMENT, "%s lies at byte %lld and has %llu bytes, but \"%s\" has only %llu", name,
         static_cast<long long>(offset_bytes), static_cast<unsigned long long>(size_bytes), mapped.path().c_str(),
         static_cast<unsigned long long>(mapped.size_bytes()));
  }
  return mapped.data() + offset_bytes;
}

void ModelBase::check_made_up(const octavo_tensor& tensor, const char* name) const {
  if (tensor.dtype != OCTAVO_BF16) {
    fail(OCTAVO_INVALID_ARGUMENT, "%s lies in no file, so its dtype must be BF16, found %d", name, tensor.dtype);
  }
  if (tensor.interleaved_heads != 0) {
    fail(OCTAVO_INVALID_ARGUMENT, "%s lies in no file, so its interleaved_heads must be 0, found %d", name,
         tensor.interleaved_heads);
  }
}

std::vector<float> ModelBase::read_scales(const octavo_tensor& tensor, const std::string& name) const {
  if (tensor.dtype != OCTAVO_F8_E4M3) return {};
  const int64_t element_bytes = plain_bytes(tensor.scale_dtype);
  const std::string scales_name = "scales of " + name;
  const uint8_t* source = find_source(tensor.scale_file, tensor.scale_offset_bytes,
                                      static_cast<uint64_t>(element_bytes * tensor.num_scales), scales_name.c_str());
  std::vector<float> scales(static_cast<size_t>(tensor.rows));
  for (int32_t row = 0; row < tensor.rows; ++row) {
    const int32_t index = tensor.num_scales == 1 ? 0 : row;
    const float scale = load_element(tensor.scale_dtype, source + element_bytes * index);
    if (!std::isfinite(scale) || scale < 0) {
      fail(OCTAVO_INVALID_ARGUMENT, "scale %d of %s must be finite and at least 0, found %g", index, name.c_str(),
           scale);
    }
    scales[static_cast<size_t>(row)] = scale;
  }
  return scales;
}

CheckedTensor ModelBase::check(const octavo_tensor& tensor) const {
  const RoleInfo info = role_info(tensor.role, config_);
  check_layer(tensor, info, config_.num_layers);
  CheckedTensor checked = {tensor, info, describe_tensor(info, tensor.layer), nullptr, {}, {}};
  const char* name = checked.name.c_str();
  check_shape(tensor, info, name);
  check_scales(tensor, name);
  if (tensor.file == OCTAVO_FILE_RANDOM) {
    check_made_up(tensor, name);
  } else {
    const uint64_t size_bytes = static_cast<uint64_t>(tensor.size_bytes);
    checked.source = find_source(tensor.file, tensor.offset_bytes, size_bytes, name);
  }
  if (is_given(tensor.role, tensor.layer)) fail(OCTAVO_INVALID_ARGUMENT, "%s is given twice", name);
  checked.scales = read_scales(tensor, checked.name);
  if (tensor.interleaved_heads > 0) checked.row_order = halves_order(tensor.interleaved_heads, config_.head_dim);
  return checked;
}

std::vector<float> ModelBase::read_vector(const CheckedTensor& tensor) const {
  const RoleInfo& info = tensor.info;
  const size_t length = static_cast<size_t>(info.cols);
  const float offset = info.is_norm ? config_.norm_weight_offset : 0;
  std::vector<float> values(length, 1.0f);
  if (tensor.source == nullptr) {
    if (info.is_norm || info.role == OCTAVO_ROLE_ROPE_FACTORS) return values;
    const uint64_t stream = random_stream(tensor.place.offset_bytes, info.role, tensor.place.layer);
    for (size_t i = 0; i < length; ++i) values[i] = bf16_to_float(float_to_bf16(random_normal(stream, i)));
    return values;
  }
  const int64_t element_bytes = plain_bytes(tensor.place.dtype);
  for (size_t i = 0; i < length; ++i) {
    const int64_t from = tensor.row_order.empty() ? static_cast<int64_t>(i) : tensor.row_order[i];
    values[i] = load_element(tensor.place.dtype, tensor.source + element_bytes * from) + offset;
  }
  return values;
}

void ModelBase::load_tensor(const octavo_tensor& tensor) {
  if (is_finished_) fail(OCTAVO_INVALID_ARGUMENT, "cannot load a tensor: the model is finished");
  CheckedTensor checked = check(tensor);
  if (checked.info.is_matrix) {
    load_matrix(std::move(checked));
  } else {
    std::vector<float> values = read_vector(checked);
    drop(checked);
    if (tensor.role == OCTAVO_ROLE_ROPE_FACTORS) {
      rope_factors_ = std::move(values);
    } else {
      load_vector(checked, std::move(values));
    }
  }
  given_.insert({tensor.role, tensor.layer});
}

void ModelBase::drop(const CheckedTensor& tensor) const {
  drop(tensor, 0, static_cast<uint64_t>(tensor.place.size_bytes));
}

void ModelBase::drop(const CheckedTensor& tensor, uint64_t offset_bytes, uint64_t size_bytes) const {
  if (tensor.source == nullptr) return;
  files_[static_cast<size_t>(tensor.place.file)].drop(static_cast<uint64_t>(tensor.place.offset_bytes) + offset_bytes,
                                                      size_bytes);
}

void ModelBase::check_model_role(const RoleInfo& info) const {
  if (!info.is_required || is_given(info.role, -1)) return;
  fail(OCTAVO_INVALID_ARGUMENT, "%s is missing", info.name);
}

// An optional tensor that only some layers have would silently change what the others compute.
void ModelBase::check_layer_role(const RoleInfo& info) const {
  int32_t given_layer = -1;
  int32_t missing_layer = -1;
  for (int32_t layer = config_.num_layers - 1; layer >= 0; --layer) {
    (is_given(info.role, layer) ? given_layer : missing_layer) = layer;
  }
  if (missing_layer < 0) return;
  const std::string missing = describe_tensor(info, missing_layer);
  if (info.is_required) fail(OCTAVO_INVALID_ARGUMENT, "%s is missing", missing.c_str());
  if (given_layer >= 0) {
    fail(OCTAVO_INVALID_ARGUMENT, "%s is missing, but that of layer %d is given", missing.c_str(), given_layer);
  }
}

void ModelBase::apply_rope_factors() {
  for (size_t i = 0; i < rope_factors_.size(); ++i) {
    if (rope_factors_[i] > 0) continue;
    fail(OCTAVO_INVALID_ARGUMENT, "rope_factors %zu must be above 0, found %g", i, rope_factors_[i]);
  }
  for (size_t i = 0; i < rope_factors_.size(); ++i) inv_freq_[i] /= rope_factors_[i];
}

void ModelBase::finish() {
  if (is_finished_) fail(OCTAVO_INVALID_ARGUMENT, "the model is already finished");
  for (const int32_t role : all_roles()) {
    const RoleInfo info = role_info(role, config_);
    if (is_layer_role(role)) {
      check_layer_role(info);
    } else {
      check_model_role(info);
    }
  }
  apply_rope_factors();
  end_loading();
  given_.clear();
  files_.clear();
  is_finished_ = true;
}

const float* ModelBase::inv_freq(int32_t table) const {
  return inv_freq_.data() + static_cast<ptrdiff_t>(table) * (config_.head_dim / 2);
}

}  // namespace octavo
