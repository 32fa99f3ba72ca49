// The plan of one step's attention, made on the device by one block: no length ever comes back to the host.
#pragma once

#include "arch/gpu.h"
#include "attn/plan_types.h"

namespace octavo {

// Enqueues the plan kernel: one block.
void make_plan(const PlanParams& params, GpuStream stream, bool overlap);

}  // namespace octavo
