#include "model/model.h"

#include <cstring>
#include <utility>

#include "arch/cpu.h"
#include "arch/error.h"
#include "gemm/elements.h"
#include "gemm/format.h"
#include "model/random_weights.h"

namespace octavo {
namespace {

// A tensor's elements in a dtype that matrices are packed from: where the file has them, or in memory of their own.
struct PackSource {
  ProjectionSource source;
  std::vector<uint8_t> memory;
};

// Runs fill(element index) over rows x cols elements of BF16 in memory of their own.
template <class Fill>
PackSource make_source(const CheckedTensor& tensor, ThreadPool& threads, Fill&& fill) {
  const int64_t cols = tensor.info.cols;
  PackSource made;
  made.memory.resize(static_cast<size_t>(tensor_bytes(OCTAVO_BF16, tensor.info.rows, tensor.info.cols)));
  threads.run(tensor.info.rows, [&](int64_t row, int) {
    for (int64_t i = row * cols; i < (row + 1) * cols; ++i) {
      const uint16_t bits = float_to_bf16(fill(row, i));
      std::memcpy(made.memory.data() + 2 * i, &bits, sizeof bits);
    }
  });
  made.source = {OCTAVO_BF16, made.memory.data(), made.memory.size(), tensor.info.rows, {}};
  return made;
}

// FP8 weights become BF16: the product with their scale is rounded by at most 2^-9, an eighth of an E4M3 step at most.
PackSource pack_source(CheckedTensor& tensor, ThreadPool& threads) {
  const octavo_tensor& place = tensor.place;
  if (tensor.source == nullptr) {
    const uint64_t stream = random_stream(place.offset_bytes, place.role, place.layer);
    return make_source(tensor, threads,
                       [&](int64_t, int64_t i) { return random_normal(stream, static_cast<uint64_t>(i)); });
  }
  if (place.dtype == OCTAVO_F8_E4M3) {
    return make_source(tensor, threads, [&](int64_t row, int64_t i) {
      return e4m3_to_float(tensor.source[i]) * tensor.scales[static_cast<size_t>(row)];
    });
  }
  return {{place.dtype, tensor.source, static_cast<uint64_t>(place.size_bytes), place.rows, tensor.row_order}, {}};
}

}  // namespace

Model::Model(const octavo_model_config& config, const octavo_layer_config* layers, const float* inv_freq)
    : ModelBase(config, layers, inv_freq) {
  if (config.quantization != OCTAVO_QUANTIZATION_NONE) {
    fail(OCTAVO_UNSUPPORTED, "quantization must be 0 (none) in the CPU build, found %d", config.quantization);
  }
  weights_.layers.resize(static_cast<size_t>(config.num_layers));
  threads_ = std::make_unique<ThreadPool>(resolve_num_threads(config.num_threads));
}

void Model::load_vector(const CheckedTensor& tensor, std::vector<float> values) {
  Vector& vector = *weight_place(weights_, tensor.info.role, tensor.place.layer).vector;
  vector = std::move(values);
  count_bytes(vector.size() * sizeof(float));
}

void Model::load_matrix(CheckedTensor tensor) {
  const WeightPlace place = weight_place(weights_, tensor.info.role, tensor.place.layer);
  if (place.projection != nullptr) return load_part(std::move(tensor), place);
  const PackSource made = pack_source(tensor, *threads_);
  const ProjectionSource& source = made.source;
  // Half of a small model may be its embedding: what is packed of it must go while the rest is read.
  const bool is_mapped = source.data == tensor.source;
  *place.matrix = Matrix::pack(source.dtype, source.data, source.rows, tensor.info.cols, nullptr, *threads_,
                               [&](uint64_t offset_bytes, uint64_t size_bytes) {
                                 if (is_mapped) drop(tensor, offset_bytes, size_bytes);
                               });
  count_bytes(place.matrix->size_bytes());
  drop(tensor);
}

// Keeps a tensor until the projection it is part of is complete, then packs them together.
void Model::load_part(CheckedTensor tensor, const WeightPlace& place) {
  const int32_t cols = tensor.info.cols;
  std::map<int32_t, CheckedTensor>& parts = waiting_[place.projection];
  parts.insert_or_assign(place.part, std::move(tensor));
  if (static_cast<int32_t>(parts.size()) < place.num_parts) return;
  try {
    std::vector<PackSource> made;
    std::vector<ProjectionSource> sources;
    for (auto& [part, waiting] : parts) {
      made.push_back(pack_source(waiting, *threads_));
      sources.push_back(made.back().source);
    }
    *place.projection = Projection::pack(sources, cols, *threads_);
  } catch (...) {
    parts.erase(place.part);
    throw;
  }
  count_bytes(place.projection->size_bytes());
  for (const auto& [part, waiting] : parts) drop(waiting);
  waiting_.erase(place.projection);
}

void Model::end_loading() { threads_.reset(); }

const Matrix& Model::lm_head() const {
  return weights_.lm_head.rows() > 0 ? weights_.lm_head : weights_.token_embedding;
}

std::shared_ptr<ModelBase> make_model(const octavo_model_config& config, const octavo_layer_config* layers,
                                      const float* inv_freq) {
  return std::make_shared<Model>(config, layers, inv_freq);
}

std::shared_ptr<const Model> cpu_model(const octavo_model& model) {
  return std::static_pointer_cast<const Model>(model.model);
}

}  // namespace octavo
