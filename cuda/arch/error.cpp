#include "arch/error.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>

namespace octavo {
namespace {

constexpr int kMessageBytes = 1024;
thread_local char last_error[kMessageBytes] = "";

}  // namespace

void fail(octavo_status status, const char* format, ...) {
  char message[kMessageBytes];
  va_list args;
  va_start(args, format);
  std::vsnprintf(message, sizeof message, format, args);
  va_end(args);
  throw Error(status, message);
}

void set_last_error(const char* message) noexcept { std::snprintf(last_error, sizeof last_error, "%s", message); }

}  // namespace octavo

extern "C" int32_t octavo_last_error(char* message, int32_t capacity) {
  const int32_t length = static_cast<int32_t>(std::strlen(octavo::last_error));
  if (message != nullptr && capacity > 0) {
    const int32_t copied = std::min(length, capacity - 1);
    std::memcpy(message, octavo::last_error, static_cast<size_t>(copied));
    message[copied] = '\0';
  }
  return length;
}
