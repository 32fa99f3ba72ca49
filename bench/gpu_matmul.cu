// The products' speed on the GPU at hand, as JSON lines.
//
//   gpu_matmul [--shapes NAME=ROWSxCOLS[/EPILOGUE],...] [--types bf16,f16,e4m3] [--m 1,8,64,...] [--no-library]
//              [--layers N] [--only products|layers|read]
//
// products: a CUDA graph of dependent products of one shape, each with other weights (at least 512 MB in all, so that
// they come from memory), overlapping as in the model; time = graph / products, median of the replays. Beside it
// cuBLASLt with the same weights. layers: qkv, o, gate_up and down of N layers of Llama-3.1-8B's shape and its output
// head, in order, as one graph. Shares are of a linear read of 4 GB measured in the same process, and count the weights'
// bytes alone.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "_gpu_timing.cuh"
#include "gemm/device_matmul.h"
#include "gemm/library_matmul.h"
#include "gemm/stream_matmul.h"

namespace {

using octavo::DeviceMatmul;
using octavo::DeviceMatrix;
using octavo::MatmulArgs;
using octavo::MatmulEpilogue;

struct Shape {
  std::string name;
  int rows;
  int cols;
  MatmulEpilogue epilogue;
};

struct Options {
  std::vector<Shape> shapes = {{"qkv", 6144, 4096, MatmulEpilogue::kStore},
                               {"o", 4096, 4096, MatmulEpilogue::kAdd},
                               {"gate_up", 28672, 4096, MatmulEpilogue::kSiluGate},
                               {"down", 4096, 14336, MatmulEpilogue::kAdd},
                               {"lm_head", 128256, 4096, MatmulEpilogue::kStore}};
  std::vector<int> types = {OCTAVO_BF16, OCTAVO_F8_E4M3};
  std::vector<int> tokens = {1, 8, 16, 32, 64, 128, 256};
  bool library = true;
  bool products = true;
  int layers = 32;
};

// Random elements below 2 in size, never NaN. E4M3: kind 1.
__global__ void fill_kernel(uint32_t* data, int64_t words, int kind) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < words; i += stride) {
    const uint32_t r = random_word(i);
    data[i] = kind == 1 ? ((r & 0x9F9F9F9Fu) | 0x20202020u) : ((r & 0x80FF80FFu) | 0x3C003C00u);
  }
}

struct Buffer {
  explicit Buffer(int64_t size, int kind = 2) : bytes((size + 255) / 256 * 256) {
    OCTAVO_GPU_CHECK(cudaMalloc(&data, static_cast<size_t>(bytes)));
    fill_kernel<<<2048, 512>>>(reinterpret_cast<uint32_t*>(data), bytes / 4, kind);
  }
  ~Buffer() { cudaFree(data); }
  Buffer(const Buffer&) = delete;
  uint8_t* data = nullptr;
  int64_t bytes;
};

// Median milliseconds of a graph of what enqueue() puts into the stream.
double time_graph_ms(GpuStream stream, int repeats, const std::function<void()>& enqueue) {
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  OCTAVO_GPU_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  enqueue();
  OCTAVO_GPU_CHECK(cudaStreamEndCapture(stream, &graph));
  OCTAVO_GPU_CHECK(cudaGraphInstantiate(&executable, graph, 0));
  const double ms = time_ms(stream, repeats, [&] { OCTAVO_GPU_CHECK(cudaGraphLaunch(executable, stream)); });
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  return ms;
}

double measure_read_rate(GpuStream stream) {
  Buffer pool(int64_t{4} << 30);
  return measure_read_rate(pool.data, pool.bytes, reinterpret_cast<uint32_t*>(pool.data), stream);
}

int element_bytes(int dtype) { return dtype == OCTAVO_F8_E4M3 ? 1 : 2; }
const char* type_name(int dtype) { return dtype == OCTAVO_BF16 ? "bf16" : dtype == OCTAVO_F16 ? "f16" : "e4m3"; }
int compute_of(int dtype) { return dtype == OCTAVO_F16 ? OCTAVO_F16 : OCTAVO_BF16; }
int y_dtype_of(const Shape& shape, int dtype) {
  return shape.epilogue == MatmulEpilogue::kAdd || shape.name == "lm_head" ? OCTAVO_F32 : compute_of(dtype);
}

class Bench {
 public:
  explicit Bench(const Options& options) : options_(options) {
    OCTAVO_GPU_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    read_rate_ = measure_read_rate(stream_);
    cudaDeviceProp properties;
    OCTAVO_GPU_CHECK(cudaGetDeviceProperties(&properties, 0));
    int driver = 0;
    OCTAVO_GPU_CHECK(cudaDriverGetVersion(&driver));
    library_ = std::make_unique<octavo::LibraryMatmul>(size_t{32} << 20);
    std::printf("{\"card\": \"%s\", \"cuda_driver\": %d, \"library\": \"%s\", \"read_tb_s\": %.3f}\n", properties.name,
                driver, library_->note().c_str(), read_rate_);
  }

  void run_products() {
    for (const Shape& shape : options_.shapes) {
      for (int dtype : options_.types) {
        const int64_t bytes = int64_t{shape.rows} * shape.cols * element_bytes(dtype);
        const int copies = static_cast<int>(std::max<int64_t>(2, ((int64_t{512} << 20) + bytes - 1) / bytes));
        Buffer weights(bytes * copies, element_bytes(dtype));
        for (int m : options_.tokens) run_product(shape, dtype, m, weights, bytes, copies);
      }
    }
  }

  void run_layers() {
    for (int dtype : options_.types) {
      const int64_t element = element_bytes(dtype);
      int64_t layer_bytes = 0;
      for (const Shape& shape : options_.shapes) {
        if (shape.name != "lm_head") layer_bytes += int64_t{shape.rows} * shape.cols * element;
      }
      const Shape& head = options_.shapes.back();
      const int64_t head_bytes = int64_t{head.rows} * head.cols * 2;
      Buffer weights(layer_bytes * options_.layers, static_cast<int>(element));
      Buffer head_weights(head_bytes);
      for (int m : options_.tokens) {
        std::vector<octavo::MatmulShape> shapes;
        for (const Shape& s : options_.shapes) {
          shapes.push_back({s.rows, s.cols, s.name == "lm_head" ? compute_of(dtype) : dtype, y_dtype_of(s, dtype),
                            s.epilogue, m});
        }
        DeviceMatmul matmul(compute_of(dtype), shapes);
        const double ms = time_graph_ms(stream_, 7, [&] {
          const uint8_t* at = weights.data;
          for (int layer = 0; layer < options_.layers; ++layer) {
            for (const Shape& s : options_.shapes) {
              if (s.name == "lm_head") continue;
              enqueue(matmul, s, dtype, at, m, true);
              at += int64_t{s.rows} * s.cols * element;
            }
          }
          enqueue(matmul, head, compute_of(dtype), head_weights.data, m, true);
        });
        const double bytes = static_cast<double>(layer_bytes) * options_.layers + static_cast<double>(head_bytes);
        std::printf("{\"layers\": %d, \"dtype\": \"%s\", \"m\": %d, \"ms\": %.4f, \"tb_s\": %.3f, \"share\": %.3f}\n",
                    options_.layers, type_name(dtype), m, ms, bytes / ms * 1e-9, bytes / ms * 1e-9 / read_rate_);
        std::fflush(stdout);
      }
    }
  }

 private:
  void enqueue(DeviceMatmul& matmul, const Shape& shape, int dtype, const uint8_t* weights, int m, bool overlap) {
    const DeviceMatrix w = {weights, dtype == OCTAVO_F8_E4M3 ? scales() : nullptr, shape.rows, shape.cols, dtype};
    matmul.multiply(arguments(shape, dtype, w, m, matmul.takes_e4m3(w, m)), stream_, overlap);
  }

  const float* scales() const { return reinterpret_cast<const float*>(scales_.data); }

  MatmulArgs arguments(const Shape& shape, int dtype, const DeviceMatrix& w, int m, bool e4m3) const {
    MatmulArgs args = {};
    args.w = &w;
    args.x = e4m3 ? x8_.data : x_.data;
    args.x_scales = e4m3 ? scales() : nullptr;
    args.x_stride = shape.cols;
    args.m = m;
    args.y = y_.data;
    args.y_stride = shape.epilogue == MatmulEpilogue::kSiluGate ? shape.rows / 2 : shape.rows;
    args.y_dtype = y_dtype_of(shape, dtype);
    args.epilogue = shape.epilogue;
    return args;
  }

  void run_product(const Shape& shape, int dtype, int m, const Buffer& weights, int64_t bytes, int copies) {
    const double ideal_us = static_cast<double>(bytes) / read_rate_ * 1e-6;
    Buffer partials(static_cast<int64_t>(octavo::stream_partial_bytes(256)));
    Buffer counters(static_cast<int64_t>(octavo::stream_counter_bytes()));
    OCTAVO_GPU_CHECK(cudaMemset(counters.data, 0, static_cast<size_t>(counters.bytes)));
    OCTAVO_GPU_CHECK(cudaDeviceSynchronize());
    const int links = std::max(copies, 16);
    std::printf("{\"product\": \"%s\", \"rows\": %d, \"cols\": %d, \"dtype\": \"%s\", \"m\": %d", shape.name.c_str(),
                shape.rows, shape.cols, type_name(dtype), m);
    std::vector<int> x_types = {compute_of(dtype)};
    if (dtype == OCTAVO_F8_E4M3 && octavo::stream_takes_e4m3() && m > 32) x_types.push_back(OCTAVO_F8_E4M3);
    for (int x_dtype : x_types) {
      octavo::prepare_stream(dtype, x_dtype);
      for (bool overlap : {true, false}) {
        const double ms = time_graph_ms(stream_, 9, [&] {
          for (int i = 0; i < links; ++i) {
            const DeviceMatrix w = {weights.data + bytes * (i % copies), dtype == OCTAVO_F8_E4M3 ? scales() : nullptr,
                                    shape.rows, shape.cols, dtype};
            octavo::stream_matmul(arguments(shape, dtype, w, m, x_dtype == OCTAVO_F8_E4M3), x_dtype,
                                  reinterpret_cast<float*>(partials.data), reinterpret_cast<int32_t*>(counters.data),
                                  stream_, overlap);
          }
        });
        const double us = ms * 1e3 / links;
        std::printf(", \"x_%s%s_us\": %.2f, \"share%s\": %.3f", type_name(x_dtype), overlap ? "" : "_alone", us,
                    overlap ? "" : "_alone", ideal_us / us);
        if (2.0 * m * shape.rows * shape.cols / us * 1e-6 > 200) {
          std::printf(", \"tflop_s\": %.0f", 2.0 * m * shape.rows * shape.cols / us * 1e-6);
        }
      }
    }
    if (options_.library) time_library(shape, dtype, m, weights, bytes, copies, links, ideal_us);
    std::printf("}\n");
    std::fflush(stdout);
  }

  void time_library(const Shape& shape, int dtype, int m, const Buffer& weights, int64_t bytes, int copies, int links,
                    double ideal_us) {
    Buffer workspace(int64_t{32} << 20);
    octavo::LibraryProduct p = {};
    p.w = weights.data;
    p.row_scales = p.x_scales = scales();
    p.x = dtype == OCTAVO_F8_E4M3 ? x8_.data : x_.data;
    p.y = y_.data;
    p.x_stride = shape.cols;
    p.y_stride = shape.rows;
    p.rows = shape.rows;
    p.cols = shape.cols;
    p.m = m;
    p.dtype = dtype;
    p.y_dtype = y_dtype_of(shape, dtype);
    p.add = shape.epilogue == MatmulEpilogue::kAdd;
    if (!library_->prepare(p, m, {static_cast<size_t>(weights.bytes), workspace.data}, stream_)) {
      std::printf(", \"library\": \"not offered\"");
      return;
    }
    const double ms = time_graph_ms(stream_, 9, [&] {
      for (int i = 0; i < links; ++i) {
        p.w = weights.data + bytes * (i % copies);
        library_->multiply(p, workspace.data, stream_);
      }
    });
    const double us = ms * 1e3 / links;
    std::printf(", \"library_us\": %.2f, \"library_share\": %.3f", us, ideal_us / us);
  }

  Options options_;
  GpuStream stream_ = nullptr;
  double read_rate_ = 0;
  std::unique_ptr<octavo::LibraryMatmul> library_;
  Buffer x_{int64_t{8192} * 14336 * 2};
  Buffer x8_{int64_t{8192} * 14336, 1};
  Buffer y_{int64_t{1} << 30};
  Buffer scales_{int64_t{131072} * 4};
};

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t at = 0; at <= text.size();) {
    const size_t comma = std::min(text.find(',', at), text.size());
    parts.push_back(text.substr(at, comma - at));
    at = comma + 1;
  }
  return parts;
}

Shape parse_shape(const std::string& text) {
  Shape shape = {};
  char name[64] = {};
  char epilogue[16] = {};
  if (std::sscanf(text.c_str(), "%63[^=]=%dx%d/%15s", name, &shape.rows, &shape.cols, epilogue) < 3) {
    std::fprintf(stderr, "a shape is NAME=ROWSxCOLS or NAME=ROWSxCOLS/add|silu, found %s\n", text.c_str());
    std::exit(2);
  }
  shape.name = name;
  if (std::strcmp(epilogue, "add") == 0) shape.epilogue = MatmulEpilogue::kAdd;
  if (std::strcmp(epilogue, "silu") == 0) shape.epilogue = MatmulEpilogue::kSiluGate;
  return shape;
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const auto value = [&]() -> std::string {
      if (i + 1 >= argc) {
        std::fprintf(stderr, "%s needs a value\n", flag.c_str());
        std::exit(2);
      }
      return argv[++i];
    };
    if (flag == "--shapes") {
      options.shapes.clear();
      for (const std::string& one : split(value())) options.shapes.push_back(parse_shape(one));
    } else if (flag == "--types") {
      options.types.clear();
      for (const std::string& one : split(value())) {
        options.types.push_back(one == "bf16" ? OCTAVO_BF16 : one == "f16" ? OCTAVO_F16 : OCTAVO_F8_E4M3);
      }
    } else if (flag == "--m") {
      options.tokens.clear();
      for (const std::string& one : split(value())) options.tokens.push_back(std::atoi(one.c_str()));
    } else if (flag == "--no-library") {
      options.library = false;
    } else if (flag == "--layers") {
      options.layers = std::atoi(value().c_str());
    } else if (flag == "--only") {
      const std::string which = value();
      options.products = which == "products";
      if (which != "layers") options.layers = 0;
    } else {
      std::fprintf(stderr, "unknown option %s\n", flag.c_str());
      std::exit(2);
    }
  }
  return options;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Options options = parse(argc, argv);
    Bench bench(options);
    if (options.products) bench.run_products();
    if (options.layers > 0) bench.run_layers();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gpu_matmul: %s\n", error.what());
    return 1;
  }
  return 0;
}
