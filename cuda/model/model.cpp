#include "model/model.h"

#include <string>
#include <utility>

#include "arch/cpu.h"
#include "arch/error.h"
#include "kv/quantize.h"
#include "model/model_config.h"

namespace octavo {
namespace {

// "q_proj of layer 3" or "lm_head"
std::string describe(const RoleInfo& info, int32_t layer) {
  return is_layer_role(info.role) ? std::string(info.name) + " of layer " + std::to_string(layer) : info.name;
}

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
  if (tensor.reserved != 0) {
    fail(OCTAVO_INVALID_ARGUMENT, "reserved of %s must be 0, found %d", name, tensor.reserved);
  }
  const uint64_t needed = tensor_bytes(tensor.dtype, tensor.rows, tensor.cols);
  if (needed == 0) {
    fail(OCTAVO_UNSUPPORTED, "%s has dtype %d, which is unknown or does not divide %d columns", name, tensor.dtype,
         tensor.cols);
  }
  if (tensor.size_bytes < 0 || static_cast<uint64_t>(tensor.size_bytes) != needed) {
    fail(OCTAVO_INVALID_ARGUMENT, "%s (%d x %d, dtype %d) must have %llu bytes, found %lld", name, tensor.rows,
         tensor.cols, tensor.dtype, static_cast<unsigned long long>(needed),
         static_cast<long long>(tensor.size_bytes));
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

Vector read_vector(const octavo_tensor& tensor, const uint8_t* source, const char* name,
                   const std::vector<int32_t>& order) {
  int32_t kv_dtype = 0;
  switch (tensor.dtype) {
    case OCTAVO_F32: kv_dtype = OCTAVO_KV_FLOAT32; break;
    case OCTAVO_F16: kv_dtype = OCTAVO_KV_FLOAT16; break;
    case OCTAVO_BF16: kv_dtype = OCTAVO_KV_BFLOAT16; break;
    default: fail(OCTAVO_UNSUPPORTED, "%s must be F32, F16 or BF16, found dtype %d", name, tensor.dtype);
  }
  // A copy: a file need not align its tensors.
  const std::vector<uint8_t> stored(source, source + tensor.size_bytes);
  Vector values(static_cast<size_t>(tensor.cols));
  dequantize(kv_dtype, stored.data(), tensor.cols, 1.0f, values.data());
  if (order.empty()) return values;
  Vector reordered;
  reordered.reserve(values.size());
  for (const int32_t from : order) reordered.push_back(values[static_cast<size_t>(from)]);
  return reordered;
}

}  // namespace

Model::Model(const octavo_model_config& config, const octavo_layer_config* layers, const float* inv_freq)
    : config_(config) {
  check_model_config(config, layers, inv_freq);
  layers_.assign(layers, layers + config.num_layers);
  inv_freq_.assign(inv_freq, inv_freq + config.head_dim);
  weights_.layers.resize(static_cast<size_t>(config.num_layers));
  threads_ = std::make_unique<ThreadPool>(resolve_num_threads(config.num_threads));
}

int32_t Model::add_file(const char* path) {
  if (is_finished_) fail(OCTAVO_INVALID_ARGUMENT, "cannot add \"%s\": the model is finished", path);
  files_.emplace_back(path);
  return static_cast<int32_t>(files_.size()) - 1;
}

const MappedFile& Model::check_range(const octavo_tensor& tensor, const RoleInfo& info) const {
  const std::string name = describe(info, tensor.layer);
  const int32_t num_files = static_cast<int32_t>(files_.size());
  if (tensor.file < 0 || tensor.file >= num_files) {
    fail(OCTAVO_INVALID_ARGUMENT, "file of %s must be 0 to %d, found %d", name.c_str(), num_files - 1, tensor.file);
  }
  const MappedFile& file = files_[static_cast<size_t>(tensor.file)];
  const uint64_t size_bytes = static_cast<uint64_t>(tensor.size_bytes);
  if (tensor.offset_bytes < 0 || size_bytes > file.size_bytes() ||
      static_cast<uint64_t>(tensor.offset_bytes) > file.size_bytes() - size_bytes) {
    fail(OCTAVO_INVALID_ARGUMENT, "%s lies at byte %lld and has %lld bytes, but \"%s\" has only %llu", name.c_str(),
         static_cast<long long>(tensor.offset_bytes), static_cast<long long>(tensor.size_bytes), file.path().c_str(),
         static_cast<unsigned long long>(file.size_bytes()));
  }
  return file;
}

void Model::load_tensor(const octavo_tensor& tensor) {
  if (is_finished_) fail(OCTAVO_INVALID_ARGUMENT, "cannot load a tensor: the model is finished");
  const RoleInfo info = role_info(tensor.role, config_);
  check_layer(tensor, info, config_.num_layers);
  const std::string name = describe(info, tensor.layer);
  check_shape(tensor, info, name.c_str());
  const MappedFile& file = check_range(tensor, info);
  if (is_given(tensor.role, tensor.layer)) fail(OCTAVO_INVALID_ARGUMENT, "%s is given twice", name.c_str());

  const WeightPlace place = weight_place(weights_, tensor.role, tensor.layer);
  const uint8_t* source = file.data() + tensor.offset_bytes;
  std::vector<int32_t> order;
  if (tensor.interleaved_heads > 0) order = halves_order(tensor.interleaved_heads, config_.head_dim);
  if (place.projection != nullptr) {
    const uint64_t size_bytes = static_cast<uint64_t>(tensor.size_bytes);
    load_part(tensor, place, {tensor.dtype, source, size_bytes, tensor.rows, std::move(order)});
  } else if (place.matrix != nullptr) {
    // Half of a small model may be its embedding: what is packed of it must go while the rest is read.
    const uint64_t tensor_begin = static_cast<uint64_t>(tensor.offset_bytes);
    *place.matrix = Matrix::pack(
        tensor.dtype, source, tensor.rows, tensor.cols, nullptr, *threads_,
        [&](uint64_t offset_bytes, uint64_t size_bytes) { file.drop(tensor_begin + offset_bytes, size_bytes); });
    weight_bytes_ += place.matrix->size_bytes();
  } else {
    *place.vector = read_vector(tensor, source, name.c_str(), order);
    if (info.is_norm) {
      for (float& weight : *place.vector) weight += config_.norm_weight_offset;
    }
    weight_bytes_ += place.vector->size() * sizeof(float);
    drop(tensor);
  }
  given_.insert({tensor.role, tensor.layer});
}

// Keeps a tensor until the projection it is part of is complete, then packs them together.
void Model::load_part(const octavo_tensor& tensor, const WeightPlace& place, ProjectionSource source) {
  std::map<int32_t, WaitingTensor>& parts = waiting_[place.projection];
  parts[place.part] = {tensor, std::move(source)};
  if (static_cast<int32_t>(parts.size()) < place.num_parts) return;
  std::vector<ProjectionSource> sources;
  for (const auto& [part, waiting] : parts) sources.push_back(waiting.source);
  try {
    *place.projection = Projection::pack(sources, tensor.cols, *threads_);
  } catch (...) {
    parts.erase(place.part);
    throw;
  }
  weight_bytes_ += place.projection->size_bytes();
  for (const auto& [part, waiting] : parts) drop(waiting.tensor);
  waiting_.erase(place.projection);
}

// The file's memory of a tensor that has been packed is not needed any more.
void Model::drop(const octavo_tensor& tensor) const {
  files_[static_cast<size_t>(tensor.file)].drop(static_cast<uint64_t>(tensor.offset_bytes),
                                                static_cast<uint64_t>(tensor.size_bytes));
}

void Model::check_model_role(const RoleInfo& info) {
  if (!info.is_required || is_given(info.role, -1)) return;
  fail(OCTAVO_INVALID_ARGUMENT, "%s is missing", info.name);
}

// An optional tensor that only some layers have would silently change what the others compute.
void Model::check_layer_role(const RoleInfo& info) {
  int32_t given_layer = -1;
  int32_t missing_layer = -1;
  for (int32_t layer = config_.num_layers - 1; layer >= 0; --layer) {
    (is_given(info.role, layer) ? given_layer : missing_layer) = layer;
  }
  if (missing_layer < 0) return;
  const std::string missing = describe(info, missing_layer);
  if (info.is_required) fail(OCTAVO_INVALID_ARGUMENT, "%s is missing", missing.c_str());
  if (given_layer >= 0) {
    fail(OCTAVO_INVALID_ARGUMENT, "%s is missing, but that of layer %d is given", missing.c_str(), given_layer);
  }
}

void Model::apply_rope_factors() {
  const Vector& factors = weights_.rope_factors;
  for (size_t i = 0; i < factors.size(); ++i) {
    if (factors[i] > 0) continue;
    fail(OCTAVO_INVALID_ARGUMENT, "rope_factors %zu must be above 0, found %g", i, factors[i]);
  }
  for (size_t i = 0; i < factors.size(); ++i) inv_freq_[i] /= factors[i];
}

void Model::finish() {
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
  given_.clear();
  files_.clear();
  threads_.reset();
  is_finished_ = true;
}

const Matrix& Model::lm_head() const {
  return weights_.lm_head.rows() > 0 ? weights_.lm_head : weights_.token_embedding;
}

const float* Model::inv_freq(int32_t table) const {
  return inv_freq_.data() + static_cast<ptrdiff_t>(table) * (config_.head_dim / 2);
}

}  // namespace octavo
