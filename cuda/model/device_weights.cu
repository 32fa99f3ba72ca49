#include "model/device_weights.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "arch/cpu.h"
#include "gemm/elements.h"
#include "model/checked_size.h"

namespace octavo {
namespace {

constexpr size_t kAlignment = 256;
constexpr size_t kSlabBytes = size_t{1} << 20;
constexpr int kMaxLoadThreads = 8;  // they saturate PCIe

using Layer = DeviceLayerWeights;

using MatrixMember = DeviceMatrix Layer::*;

struct MatrixRow {
  octavo_role role;
  MatrixMember matrix;
  int32_t part;
  int32_t num_parts;
};

constexpr MatrixRow kMatrices[] = {
    {OCTAVO_ROLE_Q_PROJ, &Layer::qkv, 0, 3},        {OCTAVO_ROLE_K_PROJ, &Layer::qkv, 1, 3},
    {OCTAVO_ROLE_V_PROJ, &Layer::qkv, 2, 3},        {OCTAVO_ROLE_O_PROJ, &Layer::attn_out, 0, 1},
    {OCTAVO_ROLE_GATE_PROJ, &Layer::gate_up, 0, 2}, {OCTAVO_ROLE_UP_PROJ, &Layer::gate_up, 1, 2},
    {OCTAVO_ROLE_DOWN_PROJ, &Layer::down, 0, 1},
};

using VectorMember = const float* Layer::*;

struct VectorRow {
  octavo_role role;
  VectorMember vector;
};

constexpr VectorRow kVectors[] = {
    {OCTAVO_ROLE_ATTN_NORM, &Layer::attn_norm},
    {OCTAVO_ROLE_O_BIAS, &Layer::o_bias},
    {OCTAVO_ROLE_Q_NORM, &Layer::q_norm},
    {OCTAVO_ROLE_K_NORM, &Layer::k_norm},
    {OCTAVO_ROLE_ATTN_POST_NORM, &Layer::attn_post_norm},
    {OCTAVO_ROLE_FFN_NORM, &Layer::ffn_norm},
    {OCTAVO_ROLE_FFN_POST_NORM, &Layer::ffn_post_norm},
    {OCTAVO_ROLE_ATTN_SINKS, &Layer::attn_sinks},
};

bool is_qkv_bias(int32_t role) {
  return role == OCTAVO_ROLE_Q_BIAS || role == OCTAVO_ROLE_K_BIAS || role == OCTAVO_ROLE_V_BIAS;
}

size_t align_up(size_t size_bytes) { return (size_bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

// Where a matrix goes and which of its num_parts tensors one is.
struct DeviceModel::MatrixPlace {
  DeviceMatrix* matrix;
  int32_t part;
  int32_t num_parts;
};

DeviceModel::DeviceModel(const octavo_model_config& config, const octavo_layer_config* layers, const float* inv_freq)
    : ModelBase(config, layers, inv_freq), layer_weights_(static_cast<size_t>(config.num_layers)) {
  if (config.compute_dtype != OCTAVO_F16 && config.compute_dtype != OCTAVO_BF16) {
    fail(OCTAVO_INVALID_ARGUMENT, "compute_dtype must be OCTAVO_F16 (1) or OCTAVO_BF16 (30), found %d",
         config.compute_dtype);
  }
  gpu_device();  // says what is wrong where there is none
  loader_ = std::make_unique<DeviceLoader>(std::min(physical_cores(), kMaxLoadThreads));
}

DeviceModel::~DeviceModel() = default;

GpuMemory& DeviceModel::allocate(size_t size_bytes) {
  memory_.emplace_back(size_bytes);
  count_bytes(size_bytes);
  return memory_.back();
}

float* DeviceModel::allocate_vector(size_t length) {
  const size_t size_bytes = align_up(length * sizeof(float));
  if (size_bytes > slab_left_bytes_) {
    slab_left_bytes_ = std::max(size_bytes, kSlabBytes);
    slab_ = allocate(slab_left_bytes_).as<uint8_t>();
  }
  float* vector = reinterpret_cast<float*>(slab_);
  slab_ += size_bytes;
  slab_left_bytes_ -= size_bytes;
  return vector;
}

DeviceModel::MatrixPlace DeviceModel::matrix_place(const octavo_tensor& tensor) {
  if (tensor.role == OCTAVO_ROLE_TOKEN_EMBEDDING) return {&token_embedding_, 0, 1};
  if (tensor.role == OCTAVO_ROLE_LM_HEAD) return {&lm_head_, 0, 1};
  const MatrixRow& row = *std::find_if(std::begin(kMatrices), std::end(kMatrices),
                                       [&](const MatrixRow& each) { return each.role == tensor.role; });
  return {&(layer_weights_[static_cast<size_t>(tensor.layer)].*row.matrix), row.part, row.num_parts};
}

// Keeps a tensor until the matrix it is part of is complete, then loads them together: their elements must be of one
// type.
void DeviceModel::load_matrix(CheckedTensor tensor) {
  const MatrixPlace place = matrix_place(tensor.place);
  const bool may_be_fp8 = is_layer_role(tensor.info.role);
  std::map<int32_t, CheckedTensor>& parts = waiting_[place.matrix];
  parts.insert_or_assign(place.part, std::move(tensor));
  if (static_cast<int32_t>(parts.size()) < place.num_parts) return;
  try {
    *place.matrix = load_stacked(parts, may_be_fp8);
  } catch (...) {
    parts.erase(place.part);
    throw;
  }
  for (const auto& [part, waiting] : parts) drop(waiting);
  waiting_.erase(place.matrix);
}

//   matrix  | rows of part 0 | rows of part 1 | ...      each row as its file has it, in the matrix's element type
DeviceMatrix DeviceModel::load_stacked(const std::map<int32_t, CheckedTensor>& parts, bool may_be_fp8) {
  bool is_fp8 = may_be_fp8;
  int32_t rows = 0;
  for (const auto& [part, tensor] : parts) {
    rows += tensor.place.rows;
    const bool stays_fp8 = tensor.place.dtype == OCTAVO_F8_E4M3;
    is_fp8 = is_fp8 && (stays_fp8 || config().quantization == OCTAVO_QUANTIZATION_FP8);
  }
  const CheckedTensor& first = parts.begin()->second;
  const int32_t cols = first.place.cols;
  const int32_t granularity = is_fp8 ? 16 : 8;  // elements that the products load at once
  if (cols % granularity != 0) {
    fail(OCTAVO_UNSUPPORTED, "columns of %s must be a multiple of %d in GPU builds, found %d", first.name.c_str(),
         granularity, cols);
  }
  const int32_t dtype = is_fp8 ? static_cast<int32_t>(OCTAVO_F8_E4M3) : compute_dtype();
  const uint64_t size_bytes = checked_product(
      first.name.c_str(),
      {static_cast<uint64_t>(rows), static_cast<uint64_t>(cols), static_cast<uint64_t>(plain_bytes(dtype))});
  void* data = allocate(size_bytes).as<void>();
  float* row_scales = is_fp8 ? allocate_vector(static_cast<size_t>(rows)) : nullptr;
  TargetRows target = {dtype, data, row_scales, cols, 0};
  for (const auto& [part, tensor] : parts) {
    loader_->load(tensor, target, config().head_dim);
    target.first_row += tensor.place.rows;
  }
  return {data, row_scales, rows, cols, dtype};
}

const float** DeviceModel::vector_place(const octavo_tensor& tensor) {
  if (tensor.role == OCTAVO_ROLE_OUTPUT_NORM) return &output_norm_;
  const VectorRow& row = *std::find_if(std::begin(kVectors), std::end(kVectors),
                                       [&](const VectorRow& each) { return each.role == tensor.role; });
  return &(layer_weights_[static_cast<size_t>(tensor.layer)].*row.vector);
}

void DeviceModel::load_vector(const CheckedTensor& tensor, std::vector<float> values) {
  if (is_qkv_bias(tensor.info.role)) return load_qkv_bias(tensor, values);
  float* vector = allocate_vector(values.size());
  OCTAVO_GPU_CHECK(cudaMemcpy(vector, values.data(), values.size() * sizeof(float), cudaMemcpyHostToDevice));
  *vector_place(tensor.place) = vector;
}

//   qkv_bias  | q: num_q_heads * head_dim | k: num_kv_heads * head_dim | v |
void DeviceModel::load_qkv_bias(const CheckedTensor& tensor, const std::vector<float>& values) {
  const size_t q = static_cast<size_t>(config().num_q_heads) * static_cast<size_t>(config().head_dim);
  const size_t kv = static_cast<size_t>(config().num_kv_heads) * static_cast<size_t>(config().head_dim);
  Layer& weights = layer_weights_[static_cast<size_t>(tensor.place.layer)];
  if (weights.qkv_bias == nullptr) {
    float* bias = allocate_vector(q + 2 * kv);
    OCTAVO_GPU_CHECK(cudaMemset(bias, 0, (q + 2 * kv) * sizeof(float)));
    weights.qkv_bias = bias;
  }
  const int32_t role = tensor.info.role;
  const size_t offset = role == OCTAVO_ROLE_Q_BIAS ? 0 : role == OCTAVO_ROLE_K_BIAS ? q : q + kv;
  OCTAVO_GPU_CHECK(cudaMemcpy(const_cast<float*>(weights.qkv_bias) + offset, values.data(),
                              values.size() * sizeof(float), cudaMemcpyHostToDevice));
}

void DeviceModel::end_loading() {
  loader_->wait();
  loader_.reset();
}

std::shared_ptr<ModelBase> make_model(const octavo_model_config& config, const octavo_layer_config* layers,
                                      const float* inv_freq) {
  return std::make_shared<DeviceModel>(config, layers, inv_freq);
}

std::shared_ptr<const DeviceModel> finished_device_model(const octavo_model& model) {
  if (!model.model->is_finished()) fail(OCTAVO_INVALID_ARGUMENT, "the model is not finished");
  return std::static_pointer_cast<const DeviceModel>(model.model);
}

}  // namespace octavo
