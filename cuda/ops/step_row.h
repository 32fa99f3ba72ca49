// A row of a step: one token that it samples.
#pragma once

#include <cstdint>

namespace octavo {

struct StepRow {
  int32_t seq_index;  // whose token it is; -1: no row of the step, only of the graph that runs it
  int32_t index;      // which of the sequence's rows: added to its sample_index
};

}  // namespace octavo
