// Memory of a step between its operations, allocated once for the largest step; the system commits it as it is touched.
#pragma once

#include <cstdint>

#include "arch/aligned_buffer.h"
#include "octavo.h"

namespace octavo {

// Rows of floats.
class Rows {
 public:
  // what: names the memory in an error.
  Rows(const char* what, int64_t num_rows, int64_t width);

  float* row(int64_t index) { return memory_.as<float>() + index * width_; }
  const float* row(int64_t index) const { return memory_.as<float>() + index * width_; }
  float* data() { return memory_.as<float>(); }
  int64_t width() const { return width_; }

 private:
  int64_t width_;
  AlignedBuffer memory_;
};

struct Scratch {
  Scratch(const octavo_model_config& model, const octavo_engine_config& config);

  // Bytes of all of it. config must be valid.
  static uint64_t size_bytes(const octavo_model_config& model, const octavo_engine_config& config);

  // T rows each.
  Rows hidden;      // [hidden_size] the residual stream
  Rows normed;      // [hidden_size] input of the next product
  Rows qkv;         // [q heads | k heads | v heads][head_dim]
  Rows attn;        // [num_q_heads][head_dim] attention's output
  Rows projected;   // [hidden_size] output of o_proj and down_proj
  Rows gate_up;     // [gate: intermediate_size | up: intermediate_size]
  Rows cosines[2];  // [head_dim / 2] of RoPE table 0 and 1
  Rows sines[2];
  AlignedBuffer positions;     // int32[T]
  AlignedBuffer slot_mapping;  // int32[T]
  // R rows each (max_samples).
  Rows head_input;  // [hidden_size]
  Rows logits;      // [vocab_size]
};

}  // namespace octavo
