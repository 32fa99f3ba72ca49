#include "arch/cpu.h"

#include <sched.h>
#include <sys/sysinfo.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>
#include <string>

#include "arch/error.h"

namespace octavo {
namespace {

constexpr const char* kIsaNames[] = {"portable", "avx2", "avx512", "avx512_vnni"};

Isa detect_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512 && __builtin_cpu_supports("avx512vnni")) return Isa::kAvx512Vnni;
  if (avx512) return Isa::kAvx512;
  if (avx2) return Isa::kAvx2;
#endif
  return Isa::kPortable;
}

Isa choose_isa() {
  const Isa best = detect_isa();
  const char* wanted = std::getenv("OCTAVO_ISA");
  if (wanted == nullptr || *wanted == '\0') return best;
  for (int i = 0; i < 4; ++i) {
    if (std::strcmp(wanted, kIsaNames[i]) != 0) continue;
    if (i > static_cast<int>(best)) {
      fail(OCTAVO_UNSUPPORTED, "OCTAVO_ISA is %s, but this processor offers only up to %s", wanted,
           isa_name(best));
    }
    return static_cast<Isa>(i);
  }
  fail(OCTAVO_INVALID_ARGUMENT, "OCTAVO_ISA must be portable, avx2, avx512 or avx512_vnni, found \"%s\"", wanted);
}

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// Cores the cgroup's quota allows, or a large number.
double quota_cores() {
  char quota[32];
  double period = 0;
  const std::string line = first_line("/sys/fs/cgroup/cpu.max");  // "max 100000" or "200000 100000"
  if (std::sscanf(line.c_str(), "%31s %lf", quota, &period) != 2 || std::strcmp(quota, "max") == 0 || period <= 0) {
    return 1e9;
  }
  return std::atof(quota) / period;
}

}  // namespace

Isa isa() {
  static const Isa chosen = choose_isa();
  return chosen;
}

const char* isa_name(Isa isa) { return kIsaNames[static_cast<int>(isa)]; }

int physical_cores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return std::max(1, get_nprocs());
  std::set<std::string> cores;  // siblings of a core share one list
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    std::string siblings =
        first_line("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list");
    cores.insert(siblings.empty() ? std::to_string(cpu) : siblings);
  }
  const double limit = std::max(1.0, std::floor(quota_cores()));
  return std::max(1, static_cast<int>(std::min<double>(static_cast<double>(cores.size()), limit)));
}

int resolve_num_threads(int threads) {
  if (threads < 0 || threads > 1024) fail(OCTAVO_INVALID_ARGUMENT, "num_threads must be 0 to 1024, found %d", threads);
  return threads > 0 ? threads : physical_cores();
}

}  // namespace octavo
