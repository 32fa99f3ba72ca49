#include "arch/memory.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <limits>

namespace octavo {
namespace {

// The number after a key in a file of lines "key number" or "key: number unit"; fallback where there is none.
double lookup(const std::string& path, const std::string& key, double fallback) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, key.size(), key) == 0) return std::atof(line.c_str() + key.size());
  }
  return fallback;
}

// A file's one number; fallback where there is none ("max").
double read_number(const std::string& path, double fallback) {
  std::ifstream file(path);
  double number = fallback;
  return file >> number ? number : fallback;
}

}  // namespace

Memory available_memory(const std::string& root) {
  constexpr double kKilobyte = 1024;
  const double total = lookup(root + "/proc/meminfo", "MemTotal:", 0) * kKilobyte;
  const double free = lookup(root + "/proc/meminfo", "MemAvailable:", 0) * kKilobyte;
  const std::string cgroup = root + "/sys/fs/cgroup/";
  const double limit = read_number(cgroup + "memory.max", std::numeric_limits<double>::infinity());
  const double file_cache = lookup(cgroup + "memory.stat", "inactive_file ", 0);
  const double used = std::max(0.0, read_number(cgroup + "memory.current", 0) - file_cache);
  return {std::min(total, limit), std::min(free, std::max(0.0, limit - used))};
}

}  // namespace octavo
