// What all builds' models share: the config, the mapped files, and the checks of every tensor before it is read. A build
// derives from it and keeps the weights.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "model/mapped_file.h"
#include "model/roles.h"
#include "octavo.h"

namespace octavo {

// A tensor that has been checked, as its build shall read it.
struct CheckedTensor {
  octavo_tensor place;
  RoleInfo info;
  std::string name;               // "q_proj of layer 3"
  const uint8_t* source;          // in its mapped file; nullptr: made up
  std::vector<int32_t> row_order; // source row of each row (of each element of a vector); empty: as they are
  std::vector<float> scales;      // OCTAVO_F8_E4M3: one a row; else empty
};

class ModelBase {
 public:
  // Arguments as octavo_model_create's. Throws Error naming the first value out of its range.
  ModelBase(const octavo_model_config& config, const octavo_layer_config* layers, const float* inv_freq);
  virtual ~ModelBase() = default;
  ModelBase(const ModelBase&) = delete;
  ModelBase& operator=(const ModelBase&) = delete;

  // Maps a file and returns its index.
  int32_t add_file(const char* path);

  // Checks one tensor and reads it; on failure nothing has changed.
  void load_tensor(const octavo_tensor& tensor);

  // Checks that nothing is missing, applies rope_factors, unmaps the files and frees what only loading needs.
  void finish();

  bool is_finished() const { return is_finished_; }
  const octavo_model_config& config() const { return config_; }
  const std::vector<octavo_layer_config>& layers() const { return layers_; }
  // RoPE's inverse frequencies: [head_dim / 2] of table 0 or 1.
  const float* inv_freq(int32_t table) const;
  uint64_t weight_bytes() const { return weight_bytes_; }

 protected:
  // Keep a tensor that is not rope_factors. On failure nothing has changed.
  virtual void load_matrix(CheckedTensor tensor) = 0;
  virtual void load_vector(const CheckedTensor& tensor, std::vector<float> values) = 0;
  // Frees what only loading needs.
  virtual void end_loading() = 0;

  // The file's memory of a tensor that has been read is not needed any more; or of a part of it.
  void drop(const CheckedTensor& tensor) const;
  void drop(const CheckedTensor& tensor, uint64_t offset_bytes, uint64_t size_bytes) const;
  void count_bytes(uint64_t size_bytes) { weight_bytes_ += size_bytes; }

 private:
  const uint8_t* find_source(int32_t file, int64_t offset_bytes, uint64_t size_bytes, const char* name) const;
  void check_made_up(const octavo_tensor& tensor, const char* name) const;
  CheckedTensor check(const octavo_tensor& tensor) const;
  std::vector<float> read_scales(const octavo_tensor& tensor, const std::string& name) const;
  std::vector<float> read_vector(const CheckedTensor& tensor) const;
  bool is_given(int32_t role, int32_t layer) const { return given_.count({role, layer}) > 0; }
  void check_model_role(const RoleInfo& info) const;
  void check_layer_role(const RoleInfo& info) const;
  void apply_rope_factors();

  octavo_model_config config_;
  std::vector<octavo_layer_config> layers_;
  std::vector<float> inv_freq_;  // [2][head_dim / 2]
  uint64_t weight_bytes_ = 0;
  bool is_finished_ = false;
  // Until finished.
  std::set<std::pair<int32_t, int32_t>> given_;  // role, layer
  std::vector<float> rope_factors_;
  std::vector<MappedFile> files_;
};

// A model of this build. Each build defines it. Throws as ModelBase's constructor.
std::shared_ptr<ModelBase> make_model(const octavo_model_config& config, const octavo_layer_config* layers,
                                      const float* inv_freq);

}  // namespace octavo

// The ABI's handle.
struct octavo_model {
  std::shared_ptr<octavo::ModelBase> model;  // shared with its engines
};
