// Packs a step's input for one copy to the device.
#pragma once

#include <cstdint>

#include "model/step_buffer.h"
#include "ops/packed_step.h"

namespace octavo {

// Bytes that a packed step of this config needs at most.
int64_t max_packed_bytes(const octavo_engine_config& config, const octavo_step_layout& layout);

// Writes the packed step to target, which is aligned to 8 bytes and has room for max_packed_bytes; returns its bytes.
int64_t pack_step(const StepView& step, const octavo_engine_config& config, const octavo_step_layout& layout,
                  void* target);

}  // namespace octavo
