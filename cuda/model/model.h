// A model: its config and its weights, read tensor by tensor from mapped files and immutable once finished.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "arch/thread_pool.h"
#include "model/mapped_file.h"
#include "model/weights.h"
#include "octavo.h"

namespace octavo {

class Model {
 public:
  // Arguments as octavo_model_create's. Throws Error naming the first value out of its range.
  Model(const octavo_model_config& config, const octavo_layer_config* layers, const float* inv_freq);

  // Maps a file and returns its index.
  int32_t add_file(const char* path);

  // Reads, checks and repacks one tensor; on failure nothing has changed.
  void load_tensor(const octavo_tensor& tensor);

  // Checks that nothing is missing, applies rope_factors, unmaps the files and ends the loading threads.
  void finish();

  bool is_finished() const { return is_finished_; }
  const octavo_model_config& config() const { return config_; }
  const std::vector<octavo_layer_config>& layers() const { return layers_; }
  const ModelWeights& weights() const { return weights_; }
  const Matrix& lm_head() const;
  // RoPE's inverse frequencies: [head_dim / 2] of table 0 or 1.
  const float* inv_freq(int32_t table) const;
  uint64_t weight_bytes() const { return weight_bytes_; }

 private:
  // A tensor of a projection whose other tensors are still to come.
  struct WaitingTensor {
    octavo_tensor tensor;
    ProjectionSource source;
  };

  const MappedFile& check_range(const octavo_tensor& tensor, const RoleInfo& info) const;
  bool is_given(int32_t role, int32_t layer) const { return given_.count({role, layer}) > 0; }
  void load_part(const octavo_tensor& tensor, const WeightPlace& place, ProjectionSource source);
  void drop(const octavo_tensor& tensor) const;
  void check_model_role(const RoleInfo& info);
  void check_layer_role(const RoleInfo& info);
  void apply_rope_factors();

  octavo_model_config config_;
  std::vector<octavo_layer_config> layers_;
  std::vector<float> inv_freq_;  // [2][head_dim / 2]
  ModelWeights weights_;
  uint64_t weight_bytes_ = 0;
  bool is_finished_ = false;
  // Until finished.
  std::set<std::pair<int32_t, int32_t>> given_;  // role, layer
  std::map<const Projection*, std::map<int32_t, WaitingTensor>> waiting_;  // by part
  std::vector<MappedFile> files_;
  std::unique_ptr<ThreadPool> threads_;
};

}  // namespace octavo

// The ABI's handle.
struct octavo_model {
  std::shared_ptr<octavo::Model> model;  // shared with its engines
};
