// octavo_abi_version, octavo_device_info and octavo_stream_set of the CPU build.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>

#include "arch/cpu.h"
#include "arch/error.h"
#include "arch/memory.h"

namespace {

// Value of "key : value" in a file of such lines, or "".
std::string lookup(const char* path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, key.size(), key) != 0) continue;
    const size_t value = line.find_first_not_of(" \t", line.find(':') + 1);
    return value == std::string::npos ? "" : line.substr(value);
  }
  return "";
}

}  // namespace

extern "C" int32_t octavo_abi_version(void) { return OCTAVO_ABI_VERSION; }

extern "C" int32_t octavo_device_info(octavo_device_info_t* info) {
  return octavo::guard([&] {
    if (info == nullptr) octavo::fail(OCTAVO_INVALID_ARGUMENT, "info must not be NULL");
    std::memset(info, 0, sizeof *info);
    info->abi_version = OCTAVO_ABI_VERSION;
    info->num_cores = octavo::physical_cores();
    std::snprintf(info->backend, sizeof info->backend, "cpu");
    std::snprintf(info->name, sizeof info->name, "%s", lookup("/proc/cpuinfo", "model name").c_str());
    std::snprintf(info->isa, sizeof info->isa, "%s", octavo::isa_name(octavo::isa()));
    const octavo::Memory memory = octavo::available_memory();
    info->memory_bytes = memory.total_bytes;
    info->memory_free_bytes = memory.free_bytes;
  });
}

extern "C" int32_t octavo_stream_set(octavo_stream* stream) {
  return octavo::guard([&] {
    if (stream != nullptr) octavo::fail(OCTAVO_UNSUPPORTED, "the CPU build has no streams: stream must be NULL");
  });
}
