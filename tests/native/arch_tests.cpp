// Tests of cuda/arch that no ABI call reaches: the thread pool, buffers and the memory a container is given. Compiled and
// run by arch_test.ts.
#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "arch/aligned_buffer.h"
#include "arch/error.h"
#include "arch/memory.h"
#include "arch/thread_pool.h"

namespace {

#define EXPECT(condition)                                              \
  do {                                                                 \
    if (!(condition)) {                                                \
      std::printf("%s:%d: %s\n", __FILE__, __LINE__, #condition);      \
      std::exit(1);                                                    \
    }                                                                  \
  } while (false)

// Every task runs once and is seen afterwards, with fewer tasks than threads, more threads than cores, and none.
void test_run() {
  for (const int num_threads : {1, 2, 5, 33}) {
    octavo::ThreadPool threads(num_threads);
    std::vector<int> runs(1000);
    for (int loop = 1; loop <= 200; ++loop) {
      const int64_t num_tasks = loop % 10 == 0 ? 1000 : loop % 10 - 1;
      runs.assign(runs.size(), 0);
      threads.run(num_tasks, [&](int64_t task, int thread) {
        EXPECT(thread >= 0 && thread < num_threads);
        ++runs[static_cast<size_t>(task)];
      });
      for (int64_t task = 0; task < 1000; ++task) EXPECT(runs[static_cast<size_t>(task)] == (task < num_tasks ? 1 : 0));
    }
  }
}

// When the address space lets only some threads start, that is an error, and those that were started end.
void test_no_more_threads() {
  constexpr size_t kStackBytes = size_t{256} << 20;
  pthread_attr_t attributes;
  pthread_attr_t attributes_before;
  pthread_getattr_default_np(&attributes_before);
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStackBytes);
  EXPECT(pthread_setattr_default_np(&attributes) == 0);
  rlimit limit_before;
  getrlimit(RLIMIT_AS, &limit_before);
  size_t pages_used = 0;
  std::ifstream("/proc/self/statm") >> pages_used;
  const rlimit limit = {pages_used * static_cast<size_t>(sysconf(_SC_PAGESIZE)) + 5 * kStackBytes, RLIM_INFINITY};
  EXPECT(setrlimit(RLIMIT_AS, &limit) == 0);
  std::string message;
  try {
    octavo::ThreadPool threads(9);
  } catch (const octavo::Error& error) {
    EXPECT(error.status() == OCTAVO_OUT_OF_MEMORY);
    message = error.what();
  }
  setrlimit(RLIMIT_AS, &limit_before);
  pthread_setattr_default_np(&attributes_before);
  EXPECT(message.rfind("cannot start thread ", 0) == 0 && message.rfind("cannot start thread 2 ", 0) != 0);
}

int64_t count_mappings() {
  std::ifstream maps("/proc/self/maps");
  int64_t lines = 0;
  for (std::string line; std::getline(maps, line);) ++lines;
  return lines;
}

// A buffer gives back all of its memory, whatever its size.
void test_buffer() {
  const size_t sizes[] = {1, 4097, size_t{2} << 20, (size_t{2} << 20) + 1, (size_t{9} << 20) + 70000};
  const int64_t before = count_mappings();
  for (int i = 0; i < 50; ++i) {
    for (const size_t size : sizes) {
      octavo::AlignedBuffer buffer(size);
      EXPECT(buffer.data()[0] == 0 && buffer.data()[size - 1] == 0);
      std::memset(buffer.data(), 7, size);
      octavo::AlignedBuffer moved(std::move(buffer));
      EXPECT(buffer.data() == nullptr && moved.size_bytes() == size);
    }
  }
  EXPECT(count_mappings() <= before + 8);
}

void write(const std::string& path, const char* text) { std::ofstream(path) << text; }

// The machine's memory, unless the cgroup's limit is less.
void test_memory(const std::string& root) {
  write(root + "/proc/meminfo", "MemTotal:   8000 kB\nMemFree:  100 kB\nMemAvailable:   6000 kB\n");
  EXPECT(octavo::available_memory(root).total_bytes == 8000 * 1024);
  EXPECT(octavo::available_memory(root).free_bytes == 6000 * 1024);
  const std::string cgroup = root + "/sys/fs/cgroup/";
  write(cgroup + "memory.max", "max\n");
  write(cgroup + "memory.current", "5000000\n");
  write(cgroup + "memory.stat", "anon 1\ninactive_file 3000000\nactive_file 9\n");
  EXPECT(octavo::available_memory(root).free_bytes == 6000 * 1024);
  write(cgroup + "memory.max", "4000000\n");
  EXPECT(octavo::available_memory(root).total_bytes == 4000000);
  EXPECT(octavo::available_memory(root).free_bytes == 2000000);
  write(cgroup + "memory.current", "7000001\n");
  EXPECT(octavo::available_memory(root).free_bytes == 0);
}

}  // namespace

int main(int, char** argv) {
  test_run();
  test_no_more_threads();
  test_buffer();
  test_memory(argv[1]);
  std::printf("all arch tests passed\n");
}
