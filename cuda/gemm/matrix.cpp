#include "gemm/matrix.h"

#include <algorithm>
#include <vector>

#include "arch/aligned_buffer.h"
#include "arch/cpu.h"
#include "arch/error.h"
#include "gemm/kernel.h"
#include "gemm/pack.h"
#include "gemm/weight_memory.h"

namespace octavo {
namespace {

// Part of the second cache (1 MB or more on current processors) that weights may take.
constexpr int64_t kCachedBytes = 256 << 10;

const KernelSet& kernels() {
#if defined(__x86_64__)
  switch (isa()) {
    case Isa::kAvx512Vnni:
      return kernels_avx512_vnni();
    case Isa::kAvx512:
      return kernels_avx512();
    case Isa::kAvx2:
      return kernels_avx2();
    case Isa::kPortable:
      break;
  }
#endif
  return kernels_portable();
}

int64_t strip_bytes(const Format& format, int64_t cols) { return cols / format.block_cols * format.packed_bytes(); }

// The largest tile for the tokens that are left: index of its kernel.
int tile_size_index(int32_t tokens_left) {
  int index = kNumTileSizes - 1;
  while ((1 << index) > tokens_left) --index;
  return index;
}

// Calls body(first token, tile size index) for every tile of m tokens.
template <class Body>
void for_each_tile(int32_t m, Body&& body) {
  for (int32_t token = 0; token < m;) {
    const int index = tile_size_index(m - token);
    body(token, index);
    token += 1 << index;
  }
}

// Cuts strips into tasks: begin[i] .. begin[i + 1]. Sizes fall from half a thread's share to a few, so that a thread
// mostly reads on where it was (what it fetched ahead is its own), and all threads still end together.
const std::vector<int64_t>& cut_tasks(int64_t num_strips, int64_t bytes_of_strip, int num_threads) {
  constexpr int64_t kMinBytes = 4 << 10;
  thread_local std::vector<int64_t> begin;
  const int64_t smallest = kMinBytes / bytes_of_strip + 1;
  begin.clear();
  for (int64_t strip = 0; strip < num_strips;) {
    begin.push_back(strip);
    strip += std::max(smallest, (num_strips - strip) / (2 * num_threads));
  }
  begin.push_back(num_strips);
  return begin;
}

// Rounds m rows of x, laid out as the tiles want them: [tile][cols / 32][tokens of the tile]. The memory is the calling
// thread's and grows to 2.5 bytes per activation of its largest product. nullptr for plain elements.
const Activation* quantize_activations(const Kernel& kernel, const float* x, int64_t x_stride, int32_t m, int32_t cols,
                                       ThreadPool& threads) {
  if (kernel.quantize == nullptr) return nullptr;
  thread_local AlignedBuffer scratch;
  const int64_t num_blocks = cols / kBlockCols;
  const size_t bytes = static_cast<size_t>(num_blocks) * static_cast<size_t>(m) * sizeof(Activation);
  if (scratch.size_bytes() < bytes) scratch = AlignedBuffer(bytes);
  Activation* activations = scratch.as<Activation>();
  threads.run((int64_t{m} + kMaxTileTokens - 1) / kMaxTileTokens, [&](int64_t task, int) {
    const int64_t first = task * kMaxTileTokens;
    for_each_tile(static_cast<int32_t>(std::min<int64_t>(m - first, kMaxTileTokens)),
                  [&](int32_t token, int size_index) {
                    const int size = 1 << size_index;
                    for (int64_t t = 0; t < size; ++t) {
                      const int64_t row = first + token;
                      kernel.quantize(x + (row + t) * x_stride, cols, activations + row * num_blocks + t, size);
                    }
                  });
  });
  return activations;
}

}  // namespace

Matrix Matrix::pack(int32_t dtype, const uint8_t* source, int32_t rows, int32_t cols, const int32_t* row_order,
                    ThreadPool& threads, const Release& release) {
  const int index = find_format(dtype);
  if (index < 0) fail(OCTAVO_UNSUPPORTED, "weights of dtype %d are not offered", dtype);
  const Format& format = kFormats[index];
  if (rows <= 0 || cols <= 0) fail(OCTAVO_INVALID_ARGUMENT, "a matrix must not be empty, found %d x %d", rows, cols);
  if (cols % format.block_cols != 0) {
    fail(OCTAVO_INVALID_ARGUMENT, "columns of a %s matrix must be a multiple of %d, found %d", format.name,
         format.block_cols, cols);
  }
  Matrix matrix;
  matrix.format_ = index;
  matrix.rows_ = rows;
  matrix.cols_ = cols;
  const int64_t num_strips = (int64_t{rows} + kStripRows - 1) / kStripRows;
  const int64_t packed_bytes = strip_bytes(format, cols);
  const int64_t row_bytes = cols / format.block_cols * int64_t{format.block_bytes};
  matrix.size_bytes_ = static_cast<size_t>(num_strips) * static_cast<size_t>(packed_bytes);
  matrix.data_ = allocate_weights(matrix.size_bytes_);
  const auto pack_one = [&](int64_t strip) {
    const uint8_t* strip_rows[kStripRows] = {};
    for (int64_t row = strip * kStripRows; row < std::min<int64_t>(rows, (strip + 1) * kStripRows); ++row) {
      strip_rows[row % kStripRows] = source + row_bytes * (row_order == nullptr ? row : row_order[row]);
    }
    pack_strip(index, strip_rows, cols, matrix.data_.get() + strip * packed_bytes);
  };
  const bool releases = release != nullptr && row_order == nullptr;
  constexpr int64_t kReleaseBytes = 8 << 20;
  const int64_t slab_strips = releases ? kReleaseBytes / (kStripRows * row_bytes) + 1 : num_strips;
  for (int64_t begin = 0; begin < num_strips; begin += slab_strips) {
    const int64_t count = std::min(slab_strips, num_strips - begin);
    threads.run(count, [&](int64_t strip, int) { pack_one(begin + strip); });
    if (!releases) continue;
    const int64_t first_row = begin * kStripRows;
    const int64_t end_row = std::min<int64_t>(rows, (begin + count) * kStripRows);
    release(static_cast<uint64_t>(first_row * row_bytes), static_cast<uint64_t>((end_row - first_row) * row_bytes));
  }
  return matrix;
}

void Matrix::dequantize_row(int32_t row, float* out) const {
  const int64_t strip = row / kStripRows;
  const uint8_t* packed = data_.get() + strip * strip_bytes(kFormats[format_], cols_);
  kDequantizeRow[format_](packed, cols_, row % kStripRows, out);
}

void Matrix::multiply(const float* x, int64_t x_stride, int32_t m, float* y, int64_t y_stride,
                      ThreadPool& threads) const {
  const Kernel& kernel = kernels().kernels[format_];
  const int64_t bytes_of_strip = strip_bytes(kFormats[format_], cols_);
  const int64_t num_strips = (int64_t{rows_} + kStripRows - 1) / kStripRows;
  const Activation* activations = quantize_activations(kernel, x, x_stride, m, cols_, threads);

  // Tokens outside, strips inside: a block of strips stays in the second cache while all tiles pass over it.
  const auto multiply_strips = [&](int64_t first_strip, int64_t end_strip) {
    for_each_tile(m, [&](int32_t token, int size_index) {
      Tile tile;
      tile.cols = cols_;
      tile.x_stride = x_stride;
      tile.y_stride = y_stride;
      if (activations != nullptr) {
        tile.activations = activations + int64_t{token} * (cols_ / kBlockCols);
      } else {
        tile.x = x + token * x_stride;
      }
      for (int64_t strip = first_strip; strip < end_strip; ++strip) {
        tile.weights = data_.get() + strip * bytes_of_strip;
        tile.y = y + token * y_stride + strip * kStripRows;
        tile.num_rows = static_cast<int>(std::min<int64_t>(kStripRows, rows_ - strip * kStripRows));
        kernel.multiply[size_index](tile);
      }
    });
  };
  const std::vector<int64_t>& begin = cut_tasks(num_strips, bytes_of_strip, threads.size());
  const int64_t block_strips = std::max<int64_t>(1, kCachedBytes / bytes_of_strip);
  threads.run(static_cast<int64_t>(begin.size()) - 1, [&](int64_t task, int) {
    for (int64_t strip = begin[task]; strip < begin[task + 1]; strip += block_strips) {
      multiply_strips(strip, std::min(begin[task + 1], strip + block_strips));
    }
  });
}

}  // namespace octavo
