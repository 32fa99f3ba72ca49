#include "model/device_loader.h"

#include <algorithm>
#include <cstring>

#include "gemm/format.h"
#include "model/random_weights.h"

namespace octavo {
namespace {

constexpr size_t kSlotBytes = size_t{32} << 20;
constexpr int64_t kChunkElements = int64_t{16} << 20;
constexpr size_t kPieceBytes = size_t{1} << 20;  // what a thread copies at a time

// Rows of a tensor that fit a chunk: in its file's form a slot, and as f32.
int32_t chunk_rows(size_t row_bytes, int32_t cols) {
  const int64_t rows = std::min<int64_t>(static_cast<int64_t>(kSlotBytes / row_bytes), kChunkElements / cols);
  return static_cast<int32_t>(std::max<int64_t>(rows, 1));
}

// The first use of a larger size is rare: a row of more columns than a chunk has elements.
void reserve(GpuMemory& memory, size_t size_bytes) {
  if (memory.size_bytes() < size_bytes) memory = GpuMemory(size_bytes);
}

}  // namespace

DeviceLoader::DeviceLoader(int num_threads) : threads_(num_threads) {
  OCTAVO_GPU_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  for (Slot& slot : slots_) {
    slot.pinned = PinnedMemory(kSlotBytes);
    OCTAVO_GPU_CHECK(cudaEventCreateWithFlags(&slot.taken, cudaEventDisableTiming));
  }
}

DeviceLoader::~DeviceLoader() {
  if (stream_ != nullptr) cudaStreamSynchronize(stream_);
  for (Slot& slot : slots_) {
    if (slot.taken != nullptr) cudaEventDestroy(slot.taken);
  }
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

void DeviceLoader::load(const CheckedTensor& tensor, const TargetRows& target, int32_t head_dim) {
  const octavo_tensor& place = tensor.place;
  const size_t row_bytes = static_cast<size_t>(tensor_bytes(place.dtype, 1, place.cols));
  if (row_bytes > kSlotBytes) {
    fail(OCTAVO_UNSUPPORTED, "a row of %s has %zu bytes, at most %zu are supported", tensor.name.c_str(), row_bytes,
         kSlotBytes);
  }
  if (place.dtype == OCTAVO_F8_E4M3) {
    if (target.dtype != OCTAVO_F8_E4M3) reserve(scales_, tensor.scales.size() * sizeof(float));
    load_scales(tensor, target.dtype == OCTAVO_F8_E4M3 ? target.row_scales + target.first_row : scales_.as<float>());
  }
  const int32_t step = chunk_rows(row_bytes, place.cols);
  for (int32_t row = 0; row < place.rows; row += step) {
    load_chunk(tensor, target, head_dim, row, std::min(step, place.rows - row));
  }
}

void DeviceLoader::wait() { OCTAVO_GPU_CHECK(cudaStreamSynchronize(stream_)); }

// Pageable memory: the call returns when it has been read.
void DeviceLoader::load_scales(const CheckedTensor& tensor, float* target) {
  OCTAVO_GPU_CHECK(cudaMemcpyAsync(target, tensor.scales.data(), tensor.scales.size() * sizeof(float),
                                   cudaMemcpyHostToDevice, stream_));
}

// Copies to the slot that the device has read longest ago.
const uint8_t* DeviceLoader::stage(const uint8_t* source, size_t size_bytes) {
  staged_ = &slots_[next_slot_];
  next_slot_ = 1 - next_slot_;
  OCTAVO_GPU_CHECK(cudaEventSynchronize(staged_->taken));
  uint8_t* pinned = staged_->pinned.as<uint8_t>();
  threads_.run(static_cast<int64_t>((size_bytes + kPieceBytes - 1) / kPieceBytes), [&](int64_t piece, int) {
    const size_t begin = static_cast<size_t>(piece) * kPieceBytes;
    std::memcpy(pinned + begin, source + begin, std::min(kPieceBytes, size_bytes - begin));
  });
  return pinned;
}

//   file rows --threads--> pinned slot --PCIe--> matrix                      where the elements stay as they are
//                                      --PCIe--> raw --> f32 values --> matrix
//                       made up ---------------------^
void DeviceLoader::load_chunk(const CheckedTensor& tensor, const TargetRows& target, int32_t head_dim,
                              int32_t first_row, int32_t num_rows) {
  const octavo_tensor& place = tensor.place;
  const int64_t num_elements = int64_t{num_rows} * place.cols;
  const bool is_interleaved = !tensor.row_order.empty();
  const bool is_direct = tensor.source != nullptr && place.dtype == target.dtype && !is_interleaved;
  if (!is_direct) reserve(values_, static_cast<size_t>(std::max(num_elements, kChunkElements)) * sizeof(float));
  float* values = values_.as<float>();
  if (tensor.source == nullptr) {
    const uint64_t random = random_stream(place.offset_bytes, place.role, place.layer);
    make_up_elements(random, int64_t{first_row} * place.cols, num_elements, values, stream_);
  } else {
    const size_t row_bytes = static_cast<size_t>(tensor_bytes(place.dtype, 1, place.cols));
    const size_t size_bytes = row_bytes * static_cast<size_t>(num_rows);
    const uint8_t* pinned = stage(tensor.source + row_bytes * static_cast<size_t>(first_row), size_bytes);
    if (!is_direct) reserve(raw_, kSlotBytes);
    uint8_t* to = is_direct ? static_cast<uint8_t*>(target.data) +
                                  row_bytes * (static_cast<size_t>(target.first_row) + static_cast<size_t>(first_row))
                            : raw_.as<uint8_t>();
    OCTAVO_GPU_CHECK(cudaMemcpyAsync(to, pinned, size_bytes, cudaMemcpyHostToDevice, stream_));
    OCTAVO_GPU_CHECK(cudaEventRecord(staged_->taken, stream_));
    if (is_direct) return;
    const float* scales = tensor.scales.empty() ? nullptr : scales_.as<float>() + first_row;
    expand_rows({place.dtype, raw_.as<uint8_t>(), scales, num_rows, place.cols}, values, stream_);
  }
  store_rows(values, first_row, num_rows, target, is_interleaved ? head_dim : 0, stream_);
}

}  // namespace octavo
