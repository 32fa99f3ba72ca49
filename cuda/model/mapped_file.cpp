#include "model/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "arch/error.h"

namespace octavo {
namespace {

// Closes on every way out of the constructor.
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) close(fd);
  }
};

}  // namespace

MappedFile::MappedFile(const char* path) : path_(path) {
  const Descriptor file{open(path, O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) fail(OCTAVO_IO, "cannot open \"%s\": %s", path, std::strerror(errno));
  struct stat info;
  if (fstat(file.fd, &info) != 0) fail(OCTAVO_IO, "cannot read the size of \"%s\": %s", path, std::strerror(errno));
  if (!S_ISREG(info.st_mode)) fail(OCTAVO_IO, "cannot map \"%s\": it is not a regular file", path);
  if (info.st_size <= 0) fail(OCTAVO_IO, "cannot map \"%s\": it is empty", path);
  void* data = mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (data == MAP_FAILED) fail(OCTAVO_IO, "cannot map \"%s\": %s", path, std::strerror(errno));
  madvise(data, static_cast<size_t>(info.st_size), MADV_SEQUENTIAL);
  data_ = static_cast<const uint8_t*>(data);
  size_bytes_ = static_cast<uint64_t>(info.st_size);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<uint8_t*>(data_), size_bytes_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)) {}

void MappedFile::drop(uint64_t offset_bytes, uint64_t size_bytes) const {
  const uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t begin = offset_bytes / page * page;
  madvise(const_cast<uint8_t*>(data_) + begin, offset_bytes + size_bytes - begin, MADV_DONTNEED);
}

}  // namespace octavo
