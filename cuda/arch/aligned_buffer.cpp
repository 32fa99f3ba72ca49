#include "arch/aligned_buffer.h"

#include <sys/mman.h>

#include <utility>

#include "arch/error.h"

namespace octavo {
namespace {

constexpr size_t kHugePageBytes = size_t{2} << 20;

}  // namespace

AlignedBuffer::AlignedBuffer(size_t size_bytes) {
  if (size_bytes == 0) return;
  void* data = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) fail(OCTAVO_OUT_OF_MEMORY, "cannot allocate %zu bytes", size_bytes);
  // Reads with 2 MB pages are 1.1 to 1.2 times faster on server processors; a refusal does no harm.
  if (size_bytes >= kHugePageBytes) madvise(data, size_bytes, MADV_HUGEPAGE);
  data_ = static_cast<uint8_t*>(data);
  size_bytes_ = size_bytes;
}

AlignedBuffer::~AlignedBuffer() {
  if (data_ != nullptr) munmap(data_, size_bytes_);
}

AlignedBuffer::AlignedBuffer(AlignedBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_bytes_(std::exchange(other.size_bytes_, 0)) {}

AlignedBuffer& AlignedBuffer::operator=(AlignedBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

}  // namespace octavo
