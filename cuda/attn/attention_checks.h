// What every build asks of octavo_attention_config.
#pragma once

#include "octavo.h"

namespace octavo {

// Throws Error naming the first field that is out of its range in every build. shape must be valid.
void check_attention_config(const octavo_kv_shape& shape, const octavo_attention_config& config);

}  // namespace octavo
