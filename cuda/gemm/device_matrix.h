// A weight matrix in a GPU's memory, as the products take it. It owns nothing.
#pragma once

#include <cstdint>

#include "octavo.h"

namespace octavo {

struct DeviceMatrix {
  const void* data;         // [rows][cols] as in the file, aligned to 256 bytes
  const float* row_scales;  // E4M3: f32[rows] on the device, element = stored x scale; else nullptr
  int32_t rows;
  int32_t cols;   // a multiple of 8; of 16 for E4M3
  int32_t dtype;  // OCTAVO_BF16, OCTAVO_F16 or OCTAVO_F8_E4M3
};

}  // namespace octavo
