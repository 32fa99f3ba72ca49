// A file mapped into memory for reading.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace octavo {

class MappedFile {
 public:
  // Throws Error (OCTAVO_IO) naming the path and the system's reason.
  explicit MappedFile(const char* path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  MappedFile& operator=(MappedFile&&) = delete;

  const std::string& path() const { return path_; }
  const uint8_t* data() const { return data_; }
  uint64_t size_bytes() const { return size_bytes_; }

  // Gives back the memory of a range that will not be read again; its neighbours on shared pages stay readable.
  void drop(uint64_t offset_bytes, uint64_t size_bytes) const;

 private:
  std::string path_;
  const uint8_t* data_ = nullptr;
  uint64_t size_bytes_ = 0;
};

}  // namespace octavo
