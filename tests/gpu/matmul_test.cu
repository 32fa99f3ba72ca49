// The products with everything a model asks of them (types, scales, bias, gates, the residual add), against f64 sums of
// the same operands. test_matmul.py compiles and runs it: the ABI's octavo_matmul has no way to ask for these.
//
//   matmul_test [--small]     --small: a reduced grid, for the sanitizer
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include <cuda_fp8.h>

#include "arch/ptx.cuh"
#include "gemm/device_matmul.h"

namespace {

using octavo::DeviceMatmul;
using octavo::DeviceMatrix;
using octavo::MatmulArgs;
using octavo::MatmulEpilogue;
using octavo::MatmulShape;

constexpr int kPadding = 8;  // columns of y past the product's, which must keep what they held
constexpr float kPoison = -7777.0f;

int failures = 0;

__device__ float random_unit(uint64_t i, uint32_t seed) {  // about normal, never 0
  uint64_t x = (i + 1) * 0x9E3779B97F4A7C15ull ^ (static_cast<uint64_t>(seed) << 32);
  x ^= x >> 31;
  x *= 0xBF58476D1CE4E5B9ull;
  x ^= x >> 29;
  const float sum = static_cast<float>(x & 0xFFFF) + static_cast<float>((x >> 16) & 0xFFFF) +
                    static_cast<float>((x >> 32) & 0xFFFF) - 98303.0f;
  return sum / 32768.0f;
}

__device__ double element(const void* x, int dtype, int64_t i) {
  if (dtype == OCTAVO_F32) return static_cast<const float*>(x)[i];
  if (dtype == OCTAVO_F16) return __half2float(static_cast<const __half*>(x)[i]);
  if (dtype == OCTAVO_BF16) return __bfloat162float(static_cast<const __nv_bfloat16*>(x)[i]);
  return static_cast<float>(static_cast<const __nv_fp8_e4m3*>(x)[i]);
}

__device__ void put(void* x, int dtype, int64_t i, float value) {
  if (dtype == OCTAVO_F32) static_cast<float*>(x)[i] = value;
  if (dtype == OCTAVO_F16) static_cast<__half*>(x)[i] = __float2half(value);
  if (dtype == OCTAVO_BF16) static_cast<__nv_bfloat16*>(x)[i] = __float2bfloat16(value);
  if (dtype == OCTAVO_F8_E4M3) static_cast<__nv_fp8_e4m3*>(x)[i] = __nv_fp8_e4m3(value);
}

__global__ void fill(void* x, int dtype, int64_t count, float magnitude, uint32_t seed) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) put(x, dtype, i, random_unit(static_cast<uint64_t>(i), seed) * magnitude);
}

__global__ void fill_positive(float* x, int64_t count, float low, float high, uint32_t seed) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) x[i] = low + (high - low) * fabsf(random_unit(static_cast<uint64_t>(i), seed)) / 3.0f;
}

__global__ void fill_with(void* x, int dtype, int64_t count, float value) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) put(x, dtype, i, value);
}

// sums[token][row] and the sums of magnitudes: a warp each.
__global__ void reference(MatmulArgs a, DeviceMatrix w, int x_dtype, double* sums, double* sizes) {
  const int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  const int token = blockIdx.y;
  if (row >= w.rows) return;
  double sum = 0;
  double size = 0;
  for (int k = threadIdx.x % 32; k < w.cols; k += 32) {
    const double term =
        element(w.data, w.dtype, static_cast<int64_t>(row) * w.cols + k) * element(a.x, x_dtype, token * a.x_stride + k);
    sum += term;
    size += fabs(term);
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    sum += __shfl_xor_sync(~0u, sum, offset);
    size += __shfl_xor_sync(~0u, size, offset);
  }
  if (threadIdx.x % 32 != 0) return;
  const double scale = (w.row_scales != nullptr ? w.row_scales[row] : 1.0) *
                       (a.x_scales != nullptr ? a.x_scales[token] : 1.0);
  const double bias = a.bias != nullptr ? a.bias[row] : 0.0;
  sums[static_cast<int64_t>(token) * w.rows + row] = sum * scale + bias;
  sizes[static_cast<int64_t>(token) * w.rows + row] = size * scale + fabs(bias);
}

template <class T>
struct Buffer {
  explicit Buffer(int64_t count) : count(count) {
    OCTAVO_GPU_CHECK(cudaMalloc(&data, static_cast<size_t>(count) * sizeof(T)));
  }
  ~Buffer() { cudaFree(data); }
  Buffer(const Buffer&) = delete;
  std::vector<T> host() const {
    std::vector<T> values(static_cast<size_t>(count));
    OCTAVO_GPU_CHECK(cudaMemcpy(values.data(), data, values.size() * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }
  T* data = nullptr;
  int64_t count;
};

int blocks(int64_t count) { return static_cast<int>((count + 255) / 256); }

int element_bytes(int dtype) { return dtype == OCTAVO_F32 ? 4 : dtype == OCTAVO_F8_E4M3 ? 1 : 2; }

float widen(const uint8_t* bytes, int dtype) {
  if (dtype == OCTAVO_F32) {
    float value;
    std::memcpy(&value, bytes, 4);
    return value;
  }
  uint16_t half;
  std::memcpy(&half, bytes, 2);
  if (dtype == OCTAVO_BF16) {
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
  }
  return __half2float(__ushort_as_half(half));
}

struct Product {
  int compute_dtype;
  int dtype;  // of W
  int rows;
  int cols;
  int y_dtype;
  MatmulEpilogue epilogue;
  bool bias;
};

std::string describe(const Product& p, int m) {
  char text[160];
  std::snprintf(text, sizeof text, "W %d x %d dtype %d, compute %d, y %d, epilogue %d, bias %d, m %d", p.rows, p.cols,
                p.dtype, p.compute_dtype, p.y_dtype, static_cast<int>(p.epilogue), p.bias, m);
  return text;
}

void report(const Product& p, int m, const char* what) {
  if (++failures <= 40) std::printf("FAILED %s: %s\n", describe(p, m).c_str(), what);
}

double gate_value(double x, MatmulEpilogue epilogue) {
  if (epilogue == MatmulEpilogue::kSiluGate) return x / (1 + std::exp(-x));
  return 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}

// The largest error as a share of what is allowed.
double compare(const Product& p, int m, const MatmulArgs& args, const std::vector<uint8_t>& y,
               const std::vector<double>& sums, const std::vector<double>& sizes, bool both_e4m3, bool library) {
  const bool gate = octavo::is_gate(p.epilogue);
  const int columns = gate ? p.rows / 2 : p.rows;
  const int bytes = element_bytes(p.y_dtype);
  const double rounding = p.y_dtype == OCTAVO_F32 ? 1e-7 : p.y_dtype == OCTAVO_F16 ? 0x1p-11 : 0x1p-8;
  // The MMA adds f32 sums with some truncation; of E4M3 operands it keeps about 14 bits, cuBLASLt with its fast sums too:
  // 4.3e-4 of the terms' sizes was found on an H100.
  const double per_sum = both_e4m3 ? 1e-3 : 2e-5;
  double worst = 0;
  for (int token = 0; token < m; ++token) {
    for (int column = 0; column < columns + kPadding; ++column) {
      const float found = widen(y.data() + (token * args.y_stride + column) * bytes, p.y_dtype);
      if (column >= columns) {
        if (found != static_cast<float>(kPoison) && std::fabs(found - kPoison) > 40) report(p, m, "padding was written");
        continue;
      }
      const int64_t at = static_cast<int64_t>(token) * p.rows + column;
      double expected = sums[at];
      double allowed = sizes[at] * per_sum;
      if (gate) {
        const double up = sums[at + columns];
        const double up_allowed = sizes[at + columns] * per_sum;
        const double act = gate_value(expected, p.epilogue);
        double gate_rounding = 0;
        if (library) gate_rounding = 0x1p-8 * (std::fabs(expected * 1.1 * up) + std::fabs(act * up));  // between the two
        allowed = allowed * 1.2 * std::fabs(up) + up_allowed * std::fabs(act) + gate_rounding + 4e-6 * std::fabs(act * up);
        expected = act * up;
      }
      if (p.epilogue == MatmulEpilogue::kAdd) expected += kPoison, allowed += 5e-4;
      if (library && p.bias && p.y_dtype != OCTAVO_F32) allowed += rounding * sizes[at];
      allowed += rounding * std::fabs(expected) + 1e-6;
      const double error = std::fabs(found - expected);
      const double share = error / allowed;
      if (!(share <= 1)) {
        char text[128];
        std::snprintf(text, sizeof text, "token %d column %d: found %.8g, expected %.8g, allowed error %.3g", token,
                      column, found, expected, allowed);
        report(p, m, text);
        return share;
      }
      worst = std::fmax(worst, share);
    }
  }
  return worst;
}

class Case {
 public:
  Case(const Product& p, int max_m)
      : p_(p),
        max_m_(max_m),
        w_(int64_t{p.rows} * p.cols * element_bytes(p.dtype)),
        row_scales_(p.rows),
        x_(int64_t{max_m} * (p.cols + 16) * 2),
        x8_(int64_t{max_m} * (p.cols + 16)),
        x_scales_(max_m),
        bias_(p.rows),
        stride_((octavo::is_gate(p.epilogue) ? p.rows / 2 : p.rows) / 8 * 8 + 8 + kPadding),
        y_(int64_t{max_m} * stride_ * element_bytes(p.y_dtype)),
        matmul_(p.compute_dtype, {{p.rows, p.cols, p.dtype, p.y_dtype, p.epilogue, max_m}}) {
    const int64_t weights = int64_t{p.rows} * p.cols;
    fill<<<blocks(weights), 256>>>(w_.data, p.dtype, weights, p.dtype == OCTAVO_F8_E4M3 ? 60.0f : 0.05f, 1);
    fill<<<blocks(max_m * (p.cols + 16)), 256>>>(x_.data, p.compute_dtype, max_m * (p.cols + 16), 1.0f, 2);
    fill<<<blocks(max_m * (p.cols + 16)), 256>>>(x8_.data, OCTAVO_F8_E4M3, max_m * (p.cols + 16), 100.0f, 3);
    fill<<<blocks(p.rows), 256>>>(bias_.data, OCTAVO_F32, p.rows, 0.5f, 4);
    fill_positive<<<blocks(p.rows), 256>>>(row_scales_.data, p.rows, 5e-4f, 1e-3f, 5);
    fill_positive<<<blocks(max_m), 256>>>(x_scales_.data, max_m, 5e-3f, 1e-2f, 6);
    matrix_ = {w_.data, p.dtype == OCTAVO_F8_E4M3 ? row_scales_.data : nullptr, p.rows, p.cols, p.dtype};
    OCTAVO_GPU_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    OCTAVO_GPU_CHECK(cudaDeviceSynchronize());
  }
  ~Case() { cudaStreamDestroy(stream_); }

  // Returns y's bytes.
  std::vector<uint8_t> run(int m, bool overlap, float* y_scales = nullptr) {
    const int64_t count = y_.count / element_bytes(p_.y_dtype);
    fill_with<<<blocks(count), 256, 0, stream_>>>(y_.data, p_.y_dtype, count, kPoison);
    MatmulArgs args = arguments(m);
    args.y_scales = y_scales;
    matmul_.multiply(args, stream_, overlap);
    OCTAVO_GPU_CHECK(cudaStreamSynchronize(stream_));
    return y_.host();
  }

  bool makes_e4m3(int m) const { return matmul_.makes_e4m3(matrix_, m); }

  MatmulArgs arguments(int m) {
    const bool e4m3 = matmul_.takes_e4m3(matrix_, m);
    MatmulArgs args = {};
    args.w = &matrix_;
    args.x = e4m3 ? static_cast<void*>(x8_.data) : x_.data;
    args.x_scales = e4m3 ? x_scales_.data : nullptr;
    args.x_stride = p_.cols + 16;
    args.m = m;
    args.y = y_.data;
    args.y_stride = stride_;
    args.y_dtype = p_.y_dtype;
    args.bias = p_.bias ? bias_.data : nullptr;
    args.epilogue = p_.epilogue;
    return args;
  }

  void check(int m) {
    const MatmulArgs args = arguments(m);
    const bool both_e4m3 = args.x_scales != nullptr;
    Buffer<double> sums(int64_t{m} * p_.rows);
    Buffer<double> sizes(int64_t{m} * p_.rows);
    reference<<<dim3((p_.rows + 7) / 8, m), 256>>>(args, matrix_, both_e4m3 ? OCTAVO_F8_E4M3 : p_.compute_dtype, sums.data,
                                                 sizes.data);
    OCTAVO_GPU_CHECK(cudaDeviceSynchronize());
    const std::vector<uint8_t> y = run(m, false);
    const double share =
        compare(p_, m, args, y, sums.host(), sizes.host(), both_e4m3, m > matmul_.streamed_max_m());
    worst_ = std::fmax(worst_, share);
    for (int repeat = 0; repeat < 2; ++repeat) {
      if (run(m, repeat == 1) != y) report(p_, m, "a second run gave other bits");
    }
    // The first token's result is the same whatever else is in the batch.
    if (m <= matmul_.streamed_max_m()) {
      const int columns = octavo::is_gate(p_.epilogue) ? p_.rows / 2 : p_.rows;
      std::vector<uint8_t> first(y.begin(), y.begin() + columns * element_bytes(p_.y_dtype));
      if (first_.empty()) first_ = first;
      if (first != first_) report(p_, m, "the first token's result depends on the number of tokens");
    }
  }

  double worst() const { return worst_; }

 private:
  Product p_;
  int max_m_;
  Buffer<uint8_t> w_;
  Buffer<float> row_scales_;
  Buffer<uint8_t> x_;
  Buffer<uint8_t> x8_;
  Buffer<float> x_scales_;
  Buffer<float> bias_;
  int64_t stride_;
  Buffer<uint8_t> y_;
  DeviceMatmul matmul_;
  DeviceMatrix matrix_;
  octavo::GpuStream stream_ = nullptr;
  std::vector<uint8_t> first_;
  double worst_ = 0;
};

void test(const Product& p, const std::vector<int>& tokens) {
  Case one(p, tokens.back());
  for (int m : tokens) one.check(m);
  std::printf("%-90s worst error %.3f of what is allowed\n", describe(p, tokens.back()).c_str(), one.worst());
  std::fflush(stdout);
}

// A chain in a graph, each product waiting for the one before: x of the next is y of the last.
void test_chain(int dtype, int m) {
  const int size = 1024;
  const int links = 24;
  const Product p = {OCTAVO_BF16, dtype, size, size, OCTAVO_BF16, MatmulEpilogue::kStore, false};
  Buffer<uint8_t> w(int64_t{links} * size * size * element_bytes(dtype));
  Buffer<float> scales(size);
  fill<<<blocks(int64_t{links} * size * size), 256>>>(w.data, dtype, int64_t{links} * size * size,
                                                      dtype == OCTAVO_F8_E4M3 ? 60.0f : 0.054f, 7);
  fill_with<<<blocks(size), 256>>>(scales.data, OCTAVO_F32, size, 0.0009f);
  Buffer<uint8_t> x(int64_t{links + 1} * m * size * 2);
  fill<<<blocks(int64_t{m} * size), 256>>>(x.data, OCTAVO_BF16, int64_t{m} * size, 1.0f, 8);
  OCTAVO_GPU_CHECK(cudaDeviceSynchronize());
  DeviceMatmul matmul(OCTAVO_BF16, {{size, size, dtype, OCTAVO_BF16, MatmulEpilogue::kStore, m}});
  octavo::GpuStream stream;
  OCTAVO_GPU_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  const auto enqueue = [&](bool overlap) {
    for (int i = 0; i < links; ++i) {
      const DeviceMatrix matrix = {w.data + int64_t{i} * size * size * element_bytes(dtype),
                                   dtype == OCTAVO_F8_E4M3 ? scales.data : nullptr, size, size, dtype};
      MatmulArgs args = {};
      args.w = &matrix;
      args.x = x.data + int64_t{i} * m * size * 2;
      args.x_stride = size;
      args.m = m;
      args.y = x.data + int64_t{i + 1} * m * size * 2;
      args.y_stride = size;
      args.y_dtype = OCTAVO_BF16;
      matmul.multiply(args, stream, overlap);
    }
  };
  enqueue(false);
  OCTAVO_GPU_CHECK(cudaStreamSynchronize(stream));
  const std::vector<uint8_t> expected = x.host();
  OCTAVO_GPU_CHECK(cudaMemset(x.data + int64_t{m} * size * 2, 0xFF, int64_t{links} * m * size * 2));
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  OCTAVO_GPU_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  enqueue(true);
  OCTAVO_GPU_CHECK(cudaStreamEndCapture(stream, &graph));
  OCTAVO_GPU_CHECK(cudaGraphInstantiate(&executable, graph, 0));
  for (int i = 0; i < 20; ++i) {
    OCTAVO_GPU_CHECK(cudaGraphLaunch(executable, stream));
    OCTAVO_GPU_CHECK(cudaStreamSynchronize(stream));
    if (x.host() != expected) {
      report(p, m, "a chain with overlap gave other bits than one without");
      break;
    }
  }
  std::printf("chain of %d, dtype %d, m %d: done\n", links, dtype, m);
}

// A gate's y in E4M3 is what its y in the compute type rounds to, with the row's largest value at 448.
void test_gate_e4m3(int compute, int m) {
  const Product p = {compute, OCTAVO_F8_E4M3, 3072, 640, compute, MatmulEpilogue::kSiluGate, true};
  Case one(p, m);
  if (!one.makes_e4m3(m)) {
    std::printf("gate to E4M3, m %d: not offered here\n", m);
    return;
  }
  const int columns = p.rows / 2;
  const MatmulArgs args = one.arguments(m);
  const std::vector<uint8_t> plain = one.run(m, false);
  Buffer<float> scales(m);
  const std::vector<uint8_t> y = one.run(m, true, scales.data);
  const std::vector<float> found = scales.host();
  for (int token = 0; token < m; ++token) {
    float largest = 0;
    const auto value = [&](int column) { return widen(plain.data() + (token * args.y_stride + column) * 2, compute); };
    for (int column = 0; column < columns; ++column) largest = std::fmax(largest, std::fabs(value(column)));
    const float scale = largest / 448;
    if (found[static_cast<size_t>(token)] != scale) report(p, m, "the scale of a row of E4M3 is not its largest / 448");
    for (int column = 0; column < columns; ++column) {
      const uint8_t expected = __nv_fp8_e4m3(value(column) / scale).__x;
      if (y[static_cast<size_t>(token * args.y_stride + column)] != expected) {
        return report(p, m, "a gate's E4M3 differs from its rounded y");
      }
    }
  }
  std::printf("gate to E4M3, compute %d, m %d: done\n", compute, m);
}

}  // namespace

int main(int argc, char** argv) {
  const bool small = argc > 1 && std::strcmp(argv[1], "--small") == 0;
  try {
    const std::vector<int> few = {1, 2, 7, 8, 9, 16, 17, 32, 33, 63, 64};
    const std::vector<int> many = {1, 8, 13, 40, 64, 65, 96, 128, 130, 256, 300, 700};
    struct Size {
      int rows, cols;
    };
    if (small) {
      for (int dtype : {OCTAVO_BF16, OCTAVO_F8_E4M3}) {
        test({OCTAVO_BF16, dtype, 576, 576, OCTAVO_BF16, MatmulEpilogue::kStore, true}, {3, 20, 130});
        test({OCTAVO_BF16, dtype, 576, 576, OCTAVO_F32, MatmulEpilogue::kAdd, true}, {3, 20, 130});
        test({OCTAVO_BF16, dtype, 3072, 640, OCTAVO_BF16, MatmulEpilogue::kSiluGate, false}, {3, 20, 130});
      }
      test_chain(OCTAVO_BF16, 5);
    } else {
      for (int compute : {OCTAVO_BF16, OCTAVO_F16}) {
        for (int dtype : {compute, static_cast<int>(OCTAVO_F8_E4M3)}) {
          for (const Size s : {Size{8, 16}, {128, 64}, {136, 80}, {576, 576}, {1000, 1536}, {4096, 4096}, {512, 14336}}) {
            test({compute, dtype, s.rows, s.cols, compute, MatmulEpilogue::kStore, false}, few);
            test({compute, dtype, s.rows, s.cols, OCTAVO_F32, MatmulEpilogue::kAdd, true}, few);
          }
          test({compute, dtype, 257, 640, OCTAVO_F32, MatmulEpilogue::kStore, false}, few);
          test({compute, dtype, 257, 640, compute, MatmulEpilogue::kStore, true}, few);
          test({compute, dtype, 16, 64, compute, MatmulEpilogue::kSiluGate, false}, few);
          test({compute, dtype, 3072, 576, compute, MatmulEpilogue::kSiluGate, true}, few);
          test({compute, dtype, 4096, 640, compute, MatmulEpilogue::kGeluGate, false}, few);
          test({compute, dtype, 7168, 4096, compute, MatmulEpilogue::kSiluGate, false}, {1, 16, 64});
          test({compute, dtype, 576, 576, compute, MatmulEpilogue::kStore, true}, many);
          test({compute, dtype, 1024, 4096, OCTAVO_F32, MatmulEpilogue::kAdd, false}, many);
          test({compute, dtype, 1024, 4096, OCTAVO_F32, MatmulEpilogue::kStore, false}, many);
          test({compute, dtype, 3072, 640, compute, MatmulEpilogue::kGeluGate, true}, many);
        }
      }
      for (int dtype : {OCTAVO_BF16, OCTAVO_F8_E4M3}) {
        for (int m : {1, 16, 64}) test_chain(dtype, m);
      }
      for (int m : {65, 300}) test_gate_e4m3(OCTAVO_BF16, m);
      test_gate_e4m3(OCTAVO_F16, 130);
    }
  } catch (const std::exception& error) {
    std::printf("error: %s\n", error.what());
    return 1;
  }
  if (failures > 0) {
    std::printf("matmul: %d failures\n", failures);
    return 1;
  }
  std::printf("matmul: ok\n");
  return 0;
}
