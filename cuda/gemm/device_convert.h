// Weights on their way to the device's matrices: from any dtype of a file, or made up, to f32 rows, and from those to
// rows of 16 bits or FP8. Loading is bound by the disk and PCIe; these kernels only must not add to it.
#pragma once

#include <cstdint>

#include "arch/gpu.h"
#include "octavo.h"

namespace octavo {

// Rows of a matrix as they lie in a file, from row first_row on.
struct FileRows {
  int32_t dtype;            // any octavo_dtype
  const uint8_t* data;      // device, [num_rows] rows
  const float* row_scales;  // device, f32[num_rows] for OCTAVO_F8_E4M3, else nullptr
  int32_t num_rows;
  int32_t cols;
};

// values[num_rows][cols] = the rows as f32, exactly as their format defines them.
void expand_rows(const FileRows& rows, float* values, GpuStream stream);

// values[num_elements] = elements first_element .. of a made-up tensor (random_weights.h), rounded to BF16.
void make_up_elements(uint64_t random_stream, int64_t first_element, int64_t num_elements, float* values,
                      GpuStream stream);

// Where rows go: the matrix's memory and the place in it of the tensor's row 0.
struct TargetRows {
  int32_t dtype;      // OCTAVO_BF16, OCTAVO_F16 or OCTAVO_F8_E4M3
  void* data;         // device, the whole matrix
  float* row_scales;  // device, f32 a row of the matrix for OCTAVO_F8_E4M3, else nullptr
  int32_t cols;
  int32_t first_row;
};

// Stores num_rows rows of f32, rows first_row .. of their tensor. 16-bit elements are rounded to nearest even and
// saturate; E4M3 is x / scale, rounded so, with scale = absmax of the row / 448 (1 for a row of zeros).
// interleaved_head_dim > 0: RoPE's pairs of each head lie side by side and are moved to halves.
void store_rows(const float* values, int32_t first_row, int32_t num_rows, const TargetRows& target,
                int32_t interleaved_head_dim, GpuStream stream);

}  // namespace octavo
