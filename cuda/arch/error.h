// Errors inside the library are exceptions; at the ABI's edge guard() turns them into a status and a message.
#pragma once

#include <cstdint>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>

#include "octavo.h"

namespace octavo {

class Error : public std::runtime_error {
 public:
  Error(octavo_status status, const std::string& message) : std::runtime_error(message), status_(status) {}
  octavo_status status() const { return status_; }

 private:
  octavo_status status_;
};

// Throws Error with a printf-style message: one sentence without a full stop that names the value found.
[[noreturn]] __attribute__((format(printf, 2, 3))) void fail(octavo_status status, const char* format, ...);

// Keeps the calling thread's message for octavo_last_error().
void set_last_error(const char* message) noexcept;

// Runs body() and maps what it throws to a status.
template <class Body>
int32_t guard(Body&& body) noexcept {
  try {
    body();
    return OCTAVO_OK;
  } catch (const Error& error) {
    set_last_error(error.what());
    return error.status();
  } catch (const std::bad_alloc&) {
    set_last_error("out of memory");
    return OCTAVO_OUT_OF_MEMORY;
  } catch (const std::exception& error) {
    set_last_error(error.what());
    return OCTAVO_INTERNAL;
  } catch (...) {
    set_last_error("unknown fault");
    return OCTAVO_INTERNAL;
  }
}

}  // namespace octavo
