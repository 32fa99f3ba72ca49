#include "arch/aligned_buffer.h"

#include <sys/mman.h>
#include <unistd.h>

#include <utility>

#include "arch/error.h"

namespace octavo {
namespace {

constexpr size_t kHugePageBytes = size_t{2} << 20;

size_t round_to_pages(size_t size_bytes) {
  static const size_t page_bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return (size_bytes + page_bytes - 1) / page_bytes * page_bytes;
}

}  // namespace

AlignedBuffer::AlignedBuffer(size_t size_bytes) {
  if (size_bytes == 0) return;
  const bool huge = size_bytes >= kHugePageBytes;
  const size_t slack = huge ? kHugePageBytes : 0;
  void* data = MAP_FAILED;
  if (size_bytes <= SIZE_MAX / 2) {
    data =
        mmap(nullptr, size_bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  }
  if (data == MAP_FAILED) fail(OCTAVO_OUT_OF_MEMORY, "cannot allocate %zu bytes", size_bytes);
  data_ = static_cast<uint8_t*>(data);
  size_bytes_ = size_bytes;
  if (!huge) return;
  // Only aligned 2 MB can be one page. Reads with such pages are 1.1 to 3 times faster; a refusal does no harm.
  const size_t skipped = (kHugePageBytes - reinterpret_cast<uintptr_t>(data) % kHugePageBytes) % kHugePageBytes;
  const size_t used = skipped + round_to_pages(size_bytes);
  if (skipped > 0) munmap(data_, skipped);
  // What is not given back here would stay when the destructor unmaps size_bytes.
  if (used < size_bytes + slack) munmap(data_ + used, size_bytes + slack - used);
  data_ += skipped;
  madvise(data_, size_bytes, MADV_HUGEPAGE);
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
