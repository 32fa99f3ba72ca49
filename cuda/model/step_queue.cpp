#include "model/step_queue.h"

#include <algorithm>

#include "arch/error.h"

namespace octavo {

void StepQueue::check_idle() const {
  if (num_steps_ == 0) return;
  fail(OCTAVO_INVALID_ARGUMENT, "octavo_step needs all steps to be finished, found %d under way", num_steps_);
}

void StepQueue::check_submit(const uint8_t* step_buffer) const {
  if (std::find(buffers_, buffers_ + num_steps_, step_buffer) != buffers_ + num_steps_) {
    fail(OCTAVO_INVALID_ARGUMENT, "the step buffer %p is already under way", static_cast<const void*>(step_buffer));
  }
  if (num_steps_ == kMaxSteps) {
    fail(OCTAVO_INVALID_ARGUMENT, "at most %d steps can be under way: finish one first", kMaxSteps);
  }
}

void StepQueue::submit(const uint8_t* step_buffer, const StepView& step) {
  buffers_[num_steps_++] = step_buffer;
  last_num_rows_ = step.count_rows();
}

void StepQueue::check_finish(const uint8_t* step_buffer) const {
  if (num_steps_ == 0) fail(OCTAVO_INVALID_ARGUMENT, "no step is under way");
  if (buffers_[0] != step_buffer) {
    fail(OCTAVO_INVALID_ARGUMENT, "the oldest step under way has the step buffer %p, found %p",
         static_cast<const void*>(buffers_[0]), static_cast<const void*>(step_buffer));
  }
}

void StepQueue::finish(const uint8_t* step_buffer) {
  check_finish(step_buffer);
  std::move(buffers_ + 1, buffers_ + num_steps_, buffers_);
  --num_steps_;
}

}  // namespace octavo
