// Checks of what octavo_model_create gets.
#pragma once

#include "octavo.h"

namespace octavo {

// Throws Error (OCTAVO_INVALID_ARGUMENT) naming the first field out of its range and its value. layers: [num_layers];
// inv_freq: [2][head_dim / 2].
void check_model_config(const octavo_model_config& config, const octavo_layer_config* layers, const float* inv_freq);

}  // namespace octavo
