// Speed of weight matrices: reading a model's weights once (decode, one token) and products of many tokens (prefill).
// Prints JSON. Build: cmake -S cuda -B build/cpu -D OCTAVO_BENCH=ON && cmake --build build/cpu. Arguments: threads
// (default: physical cores), then names: smollm2, or formats such as Q4_K (default: all).
//   smollm2: SmolLM2-135M, its matrices one after another, as in a step
//   formats: 16 matrices of 2048 x 2048
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "arch/cpu.h"
#include "gemm/format.h"
#include "gemm/matrix.h"

namespace {

using octavo::Matrix;
using octavo::ThreadPool;

constexpr double kSecondsPerCase = 0.3;

// Blocks of any bytes are valid; small bytes keep the f16 scales finite. Elements get an exponent that keeps products
// away from subnormal numbers, which no model has and processors are slow at.
Matrix make_matrix(int32_t dtype, int32_t rows, int32_t cols, ThreadPool& threads) {
  std::vector<uint8_t> source(octavo::tensor_bytes(dtype, rows, cols));
  uint32_t state = 1;
  for (uint8_t& byte : source) byte = static_cast<uint8_t>((state = state * 1664525 + 1013904223) >> 24 & 0x3B);
  if (dtype == OCTAVO_F32 || dtype == OCTAVO_BF16) {
    const size_t element_bytes = dtype == OCTAVO_F32 ? 4 : 2;
    for (size_t i = element_bytes - 1; i < source.size(); i += element_bytes) source[i] = 0x3C;
  }
  return Matrix::pack(dtype, source.data(), rows, cols, nullptr, threads);
}

// The best time of body() in seconds, over at least three calls.
template <class Body>
double best_seconds(Body&& body) {
  using Clock = std::chrono::steady_clock;
  double best = 1e9, total = 0;
  body();
  for (int calls = 0; calls < 3 || total < kSecondsPerCase; ++calls) {
    const auto start = Clock::now();
    body();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    best = std::min(best, seconds);
    total += seconds;
  }
  return best;
}

struct Case {
  std::string name;
  int32_t m;
  std::vector<Matrix> matrices;
};

void run(const Case& bench, ThreadPool& threads, const char* separator) {
  double bytes = 0, weights = 0;
  int32_t max_cols = 0, max_rows = 0;
  for (const Matrix& matrix : bench.matrices) {
    bytes += static_cast<double>(matrix.size_bytes());
    weights += static_cast<double>(matrix.rows()) * matrix.cols();
    max_cols = std::max(max_cols, matrix.cols());
    max_rows = std::max(max_rows, matrix.rows());
  }
  std::vector<float> x(static_cast<size_t>(max_cols) * static_cast<size_t>(bench.m));
  std::vector<float> y(static_cast<size_t>(max_rows) * static_cast<size_t>(bench.m));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 37 % 101) / 50 - 1;
  const double seconds = best_seconds([&] {
    for (const Matrix& matrix : bench.matrices) {
      matrix.multiply(x.data(), matrix.cols(), bench.m, y.data(), matrix.rows(), threads);
    }
  });
  std::printf("%s\n    {\"name\": \"%s\", \"m\": %d, \"ms\": %.3f, \"gb_per_s\": %.1f, \"gmac_per_s\": %.1f}",
              separator, bench.name.c_str(), bench.m, seconds * 1e3, bytes / seconds / 1e9,
              weights * bench.m / seconds / 1e9);
  std::fflush(stdout);
}

std::vector<Matrix> smollm2(ThreadPool& threads) {
  std::vector<Matrix> matrices;
  constexpr int32_t kShapes[][2] = {{576, 576},  {192, 576},  {192, 576}, {576, 576},
                                    {1536, 576}, {1536, 576}, {576, 1536}};
  for (int layer = 0; layer < 30; ++layer) {
    for (const auto& shape : kShapes) matrices.push_back(make_matrix(OCTAVO_Q4_1, shape[0], shape[1], threads));
  }
  matrices.push_back(make_matrix(OCTAVO_Q8_0, 49152, 576, threads));
  return matrices;
}

}  // namespace

int main(int argc, char** argv) {
  ThreadPool threads(octavo::resolve_num_threads(argc > 1 ? std::atoi(argv[1]) : 0));
  const auto wanted = [&](const char* name) {
    return argc <= 2 ||
           std::any_of(argv + 2, argv + argc, [&](const char* arg) { return std::strcmp(arg, name) == 0; });
  };
  octavo_device_info_t info;
  if (octavo_device_info(&info) != OCTAVO_OK) return 1;
  std::printf("{\"machine\": \"%s\", \"isa\": \"%s\", \"threads\": %d, \"cases\": [", info.name, info.isa,
              threads.size());
  const char* separator = "";
  if (wanted("smollm2")) {
    Case bench{"smollm2-135m q4_1", 1, smollm2(threads)};
    for (const int32_t m : {1, 4, 16, 128}) {
      bench.m = m;
      run(bench, threads, separator);
      separator = ",";
    }
  }
  for (const octavo::Format& format : octavo::kFormats) {
    if (!wanted(format.name)) continue;
    Case bench{format.name, 1, {}};
    for (int i = 0; i < 16; ++i) bench.matrices.push_back(make_matrix(format.dtype, 2048, 2048, threads));
    for (const int32_t m : {1, 2, 4, 8, 128}) {
      bench.m = m;
      run(bench, threads, separator);
      separator = ",";
    }
  }
  std::printf("\n]}\n");
}
