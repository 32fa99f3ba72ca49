// How much memory this process may use: the machine's, or less where a cgroup (a container) is given less.
#pragma once

#include <string>

namespace octavo {

struct Memory {
  double total_bytes;
  double free_bytes;  // without swapping; what only caches files counts as free
};

// root: stands before /proc and /sys, for tests.
Memory available_memory(const std::string& root = "");

}  // namespace octavo
