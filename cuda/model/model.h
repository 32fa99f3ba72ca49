// The CPU build's models: weights packed for its kernels.
#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "arch/thread_pool.h"
#include "model/model_base.h"
#include "model/weights.h"
#include "octavo.h"

namespace octavo {

class Model final : public ModelBase {
 public:
  // Arguments as octavo_model_create's. Throws Error naming the first value out of its range.
  Model(const octavo_model_config& config, const octavo_layer_config* layers, const float* inv_freq);

  const ModelWeights& weights() const { return weights_; }
  const Matrix& lm_head() const;

 private:
  void load_matrix(CheckedTensor tensor) override;
  void load_vector(const CheckedTensor& tensor, std::vector<float> values) override;
  void end_loading() override;
  void load_part(CheckedTensor tensor, const WeightPlace& place);

  ModelWeights weights_;
  // Until finished.
  std::map<const Projection*, std::map<int32_t, CheckedTensor>> waiting_;  // parts of projections, others to come
  std::unique_ptr<ThreadPool> threads_;
};

// The handle's model.
std::shared_ptr<const Model> cpu_model(const octavo_model& model);

}  // namespace octavo
