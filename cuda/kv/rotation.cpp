#include "kv/rotation.h"

#include <cmath>

#include "kv/format.h"

namespace octavo {

void rotate_head(float* x, int32_t head_dim) {
  const int32_t block = rotation_block(head_dim);
  //  one pass, distance 2:  | a0 a1 b0 b1 | ..   ->   | a0+b0 a1+b1 a0-b0 a1-b1 | ..
  for (int32_t distance = 1; distance < block; distance *= 2) {
    for (int32_t first = 0; first < head_dim; first += 2 * distance) {
      for (int32_t i = first; i < first + distance; ++i) {
        const float a = x[i];
        const float b = x[i + distance];
        x[i] = a + b;
        x[i + distance] = a - b;
      }
    }
  }
  const float norm = 1.0f / std::sqrt(static_cast<float>(block));
  for (int32_t i = 0; i < head_dim; ++i) x[i] *= norm;
}

}  // namespace octavo
