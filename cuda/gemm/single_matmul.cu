#include "gemm/single_matmul.h"

#include <algorithm>

#include "gemm/rows.h"
#include "gemm/stream_matmul.h"
#include "gemm/stream_tile.h"

namespace octavo {
namespace {

// Zeros.
class StreamMemory {
 public:
  StreamMemory(size_t bytes, GpuStream stream) : stream_(stream) {
    if (bytes == 0) return;
    OCTAVO_GPU_CHECK(cudaMallocAsync(&data_, bytes, stream));
    OCTAVO_GPU_CHECK(cudaMemsetAsync(data_, 0, bytes, stream));
  }
  ~StreamMemory() {
    if (data_ != nullptr) cudaFreeAsync(data_, stream_);
  }
  StreamMemory(const StreamMemory&) = delete;
  StreamMemory& operator=(const StreamMemory&) = delete;
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
  GpuStream stream_;
};

}  // namespace

void single_matmul(const DeviceMatrix& w, const float* x, int32_t m, float* y, GpuStream stream) {
  if (w.dtype != OCTAVO_F16 && w.dtype != OCTAVO_BF16 && w.dtype != OCTAVO_F8_E4M3) {
    fail(OCTAVO_UNSUPPORTED, "GPU builds multiply OCTAVO_F16 (1), OCTAVO_BF16 (30) and OCTAVO_F8_E4M3 (100), found dtype %d",
         w.dtype);
  }
  const int32_t multiple = 16 / stream_element_bytes(w.dtype);
  if (w.cols % multiple != 0) {
    fail(OCTAVO_INVALID_ARGUMENT, "cols must be a multiple of %d for dtype %d, found %d", multiple, w.dtype, w.cols);
  }
  const int32_t x_dtype = w.dtype == OCTAVO_F16 ? OCTAVO_F16 : OCTAVO_BF16;
  prepare_stream(w.dtype, x_dtype);
  const StreamMemory narrow(size_t{2} * m * w.cols, stream);
  const StreamMemory partials(stream_partial_bytes(std::min(m, stream_max_columns())), stream);
  const StreamMemory counters(stream_counter_bytes(), stream);
  narrow_rows(x, narrow.data(), x_dtype, int64_t{m} * w.cols, stream);
  MatmulArgs args = {};
  args.w = &w;
  args.x = narrow.data();
  args.x_stride = w.cols;
  args.m = m;
  args.y = y;
  args.y_stride = w.rows;
  args.y_dtype = OCTAVO_F32;
  stream_matmul(args, x_dtype, static_cast<float*>(partials.data()), static_cast<int32_t*>(counters.data()), stream,
                false);
}

}  // namespace octavo
