// Repacking of weights from their file's layout (see format.h for both).
#pragma once

#include <cstdint>

#include "gemm/format.h"

namespace octavo {

// Packs up to 16 rows of format kFormats[format_index] to one strip. rows[lane]: a row as it lies in the file, or
// nullptr beyond the matrix. strip: zeroed, cols / block_cols * packed_bytes bytes.
void pack_strip(int format_index, const uint8_t* const rows[kStripRows], int64_t cols, uint8_t* strip);

}  // namespace octavo
