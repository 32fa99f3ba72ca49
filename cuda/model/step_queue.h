// The steps under way: at most two, finished in the order they were submitted; and how many rows the last one has.
#pragma once

#include <cstdint>

#include "model/step_buffer.h"

namespace octavo {

class StepQueue {
 public:
  static constexpr int32_t kMaxSteps = 2;

  // Throw Error (OCTAVO_INVALID_ARGUMENT): a step is under way; no further one may start with this buffer.
  void check_idle() const;
  void check_submit(const uint8_t* step_buffer) const;

  // Notes a step that has started.
  void submit(const uint8_t* step_buffer, const StepView& step);

  // Throws Error (OCTAVO_INVALID_ARGUMENT) when step_buffer is not that of the oldest step under way.
  void check_finish(const uint8_t* step_buffer) const;

  // Notes the end of the oldest step; checks as check_finish().
  void finish(const uint8_t* step_buffer);

  // Rows of the step submitted last.
  int32_t last_num_rows() const { return last_num_rows_; }

 private:
  const uint8_t* buffers_[kMaxSteps] = {};  // oldest first
  int32_t num_steps_ = 0;
  int32_t last_num_rows_ = 0;
};

}  // namespace octavo
