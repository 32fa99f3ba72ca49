// Memory of packed weights. Matrices share large pieces, so that small ones lie in 2 MB pages too: with 4 KB pages
// a processor spends most of a decode step looking up addresses (3 times slower on a Xeon, 576 x 576 Q4_1 matrices).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace octavo {

// Zeroed, aligned to 64 bytes, freed with its last owner (and then the piece it is in with the piece's last).
// Throws Error (OCTAVO_OUT_OF_MEMORY). Any thread may call it.
std::shared_ptr<uint8_t[]> allocate_weights(size_t size_bytes);

}  // namespace octavo
