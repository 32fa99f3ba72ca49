#include "gemm/device_matmul.h"

#include <algorithm>

#include "gemm/library_matmul.h"
#include "gemm/rows.h"
#include "gemm/stream_matmul.h"
#include "gemm/stream_tile.h"

namespace octavo {
namespace {

constexpr size_t kLibraryWorkspaceBytes = size_t{32} << 20;  // what NVIDIA recommends for Hopper
constexpr int32_t kGateTokens = 2048;  // of one product with a gate by cuBLASLt: bounds the memory between the two

// Above so many tokens arithmetic takes longer than reading the weights and cuBLASLt wins (docs/cuda_matmul.md).
constexpr int32_t kStreamedMax = 64;

class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  ~DeviceBuffer() { free(); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  void allocate(size_t bytes) {
    if (bytes == 0) return;
    OCTAVO_GPU_CHECK(cudaMalloc(&data_, bytes));
    OCTAVO_GPU_CHECK(cudaMemset(data_, 0, bytes));
  }
  void free() {
    cudaFree(data_);
    data_ = nullptr;
  }
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

bool is_16_bit(int32_t dtype) { return dtype == OCTAVO_BF16 || dtype == OCTAVO_F16; }

void check_shape(const MatmulShape& s, int32_t compute_dtype) {
  const int32_t multiple = s.dtype == OCTAVO_F8_E4M3 ? 16 : 8;
  if (s.rows <= 0 || s.cols <= 0 || s.cols % multiple != 0 || s.max_m <= 0) {
    fail(OCTAVO_INVALID_ARGUMENT,
         "a product needs rows and max_m above 0 and cols that are a multiple of %d, found %d x %d, max_m %d", multiple,
         s.rows, s.cols, s.max_m);
  }
  if (s.dtype != compute_dtype && s.dtype != OCTAVO_F8_E4M3) {
    fail(OCTAVO_INVALID_ARGUMENT, "weights must be of the compute dtype %d or OCTAVO_F8_E4M3, found dtype %d",
         compute_dtype, s.dtype);
  }
  if (is_gate(s.epilogue) && s.rows % 16 != 0) {
    fail(OCTAVO_INVALID_ARGUMENT, "rows of gate and up must be a multiple of 16 in all, found %d", s.rows);
  }
  if (s.epilogue == MatmulEpilogue::kAdd ? s.y_dtype != OCTAVO_F32 : s.y_dtype != OCTAVO_F32 && !is_16_bit(s.y_dtype)) {
    fail(OCTAVO_INVALID_ARGUMENT, "y must be OCTAVO_F32 or, but for kAdd, a 16-bit type, found dtype %d", s.y_dtype);
  }
}

}  // namespace

struct DeviceMatmul::State {
  int32_t compute_dtype;
  bool widens_only;  // this card multiplies E4M3 weights by 16-bit x whatever m is
  std::vector<MatmulShape> shapes;
  std::vector<bool> in_library;  // of each shape, whether cuBLASLt does its many tokens
  std::unique_ptr<LibraryMatmul> library;
  std::string note = "cuBLASLt is not needed: no product has many tokens";
  DeviceBuffer partials;
  DeviceBuffer counters;
  Shared shared = {};
  DeviceBuffer own_workspace;
  DeviceBuffer own_gate;
  void* workspace = nullptr;  // of cuBLASLt
  void* gate = nullptr;       // [kGateTokens][rows] of the compute dtype

  bool takes_e4m3(int32_t dtype, int32_t m) const {
    return dtype == OCTAVO_F8_E4M3 && !widens_only && m > kStreamedMax;
  }

  int32_t x_dtype(int32_t weight_dtype, int32_t m) const {
    return takes_e4m3(weight_dtype, m) ? OCTAVO_F8_E4M3 : compute_dtype;
  }

  bool makes_e4m3(const DeviceMatrix& w, int32_t m) const {
    const int32_t half = w.rows / 2;
    if (m <= kStreamedMax || half % 16 != 0 || half > kMaxGateE4m3) return false;
    for (size_t i = 0; i < shapes.size(); ++i) {
      const MatmulShape& s = shapes[i];
      if (is_gate(s.epilogue) && s.rows == w.rows && s.cols == w.cols && s.dtype == w.dtype && in_library[i]) {
        return is_16_bit(s.y_dtype);
      }
    }
    return false;
  }

  const MatmulShape* find(const MatmulArgs& args) const {
    for (const MatmulShape& s : shapes) {
      if (s.rows == args.w->rows && s.cols == args.w->cols && s.dtype == args.w->dtype && s.y_dtype == args.y_dtype &&
          s.epilogue == args.epilogue && args.m <= s.max_m) {
        return &s;
      }
    }
    return nullptr;
  }

  LibraryProduct library_product(const MatmulShape& s) const {
    LibraryProduct p = {};
    p.rows = s.rows;
    p.cols = s.cols;
    p.dtype = x_dtype(s.dtype, s.max_m);
    p.y_dtype = is_gate(s.epilogue) ? compute_dtype : s.y_dtype;
    p.x_stride = s.cols;
    p.y_stride = s.rows;
    p.add = s.epilogue == MatmulEpilogue::kAdd;
    return p;
  }

  // Tokens of one product by the library.
  static int32_t library_tokens(const MatmulShape& s) {
    return is_gate(s.epilogue) ? std::min(s.max_m, kGateTokens) : s.max_m;
  }

  void allocate() {
    int32_t columns = 0;
    size_t gate_bytes = 0;
    bool large = false;
    for (const MatmulShape& s : shapes) {
      for (int32_t m : {std::min(s.max_m, kStreamedMax), s.max_m}) {
        const int32_t x = x_dtype(s.dtype, m);
        prepare_stream(s.dtype, x);
        columns = std::max(columns, std::min(m, stream_max_columns()));
      }
      large = large || s.max_m > kStreamedMax;
      if (is_gate(s.epilogue) && s.max_m > kStreamedMax) {
        gate_bytes = std::max(gate_bytes, size_t{2} * library_tokens(s) * s.rows);
      }
    }
    partials.allocate(stream_partial_bytes(columns));
    counters.allocate(stream_counter_bytes());
    if (!large) return;
    library = std::make_unique<LibraryMatmul>(kLibraryWorkspaceBytes);
    note = library->note();
    if (!library->is_usable()) return;
    shared = {kLibraryWorkspaceBytes, (gate_bytes + 255) / 256 * 256};
    own_workspace.allocate(shared.workspace_bytes);
    own_gate.allocate(shared.gate_bytes);
    workspace = own_workspace.data();
    gate = own_gate.data();
  }

  // Chooses the library's kernels and runs them, on memory that is given back.
  void prepare_library() {
    if (library == nullptr || !library->is_usable()) return;
    size_t w_bytes = 0;
    size_t x_bytes = 0;
    size_t y_bytes = 0;
    int32_t scales = 0;
    for (const MatmulShape& s : shapes) {
      if (s.max_m <= kStreamedMax) continue;
      const size_t m = static_cast<size_t>(library_tokens(s));
      w_bytes = std::max(w_bytes, static_cast<size_t>(s.rows) * s.cols * stream_element_bytes(s.dtype));
      x_bytes = std::max(x_bytes, m * s.cols * 2);
      y_bytes = std::max(y_bytes, m * s.rows * 4);
      scales = std::max({scales, s.rows, s.max_m});
    }
    DeviceBuffer w, x, y, ones;
    w.allocate(w_bytes);
    x.allocate(x_bytes);
    fill_noise(w.data(), w_bytes, nullptr);
    fill_noise(x.data(), x_bytes, nullptr);
    y.allocate(y_bytes);
    ones.allocate(static_cast<size_t>(scales) * sizeof(float));
    for (size_t i = 0; i < shapes.size(); ++i) {
      const MatmulShape& s = shapes[i];
      if (s.max_m <= kStreamedMax) continue;
      LibraryProduct p = library_product(s);
      if (s.dtype != p.dtype) continue;  // E4M3 weights that this card widens
      p.w = w.data();
      p.x = x.data();
      p.y = y.data();
      p.row_scales = p.x_scales = static_cast<const float*>(ones.data());
      in_library[i] = library->prepare(p, library_tokens(s), {w_bytes, workspace}, nullptr);
      if (!in_library[i]) {
        note += "; it does not offer " + std::to_string(s.rows) + " x " + std::to_string(s.cols) + " in dtype " +
                std::to_string(s.dtype) + ", which runs on slower kernels";
      }
    }
    OCTAVO_GPU_CHECK(cudaStreamSynchronize(nullptr));
  }

  // False: nothing was enqueued.
  bool multiply_by_library(const MatmulShape& shape, const MatmulArgs& args, GpuStream stream, bool overlap) {
    LibraryProduct p = library_product(shape);
    if (p.dtype != args.w->dtype) return false;
    p.w = args.w->data;
    p.row_scales = args.w->row_scales;
    p.x_stride = args.x_stride;
    const bool makes_gate = is_gate(args.epilogue);
    const int32_t most = library_tokens(shape);
    for (int32_t first = 0; first < args.m; first += most) {
      p.m = std::min(args.m - first, most);
      p.x = static_cast<const uint8_t*>(args.x) + first * args.x_stride * stream_element_bytes(p.dtype);
      p.x_scales = args.x_scales == nullptr ? nullptr : args.x_scales + first;
      const int64_t y_bytes = args.y_scales != nullptr ? 1 : args.y_dtype == OCTAVO_F32 ? 4 : 2;
      void* y = static_cast<uint8_t*>(args.y) + first * args.y_stride * y_bytes;
      p.y = makes_gate ? gate : y;
      p.y_stride = makes_gate ? shape.rows : args.y_stride;
      if (!library->multiply(p, workspace, stream)) {
        if (first == 0) return false;
        fail(OCTAVO_INTERNAL, "cuBLASLt refused a product of %d tokens after it took one of %d", p.m, most);
      }
      if (makes_gate) {
        GateRows rows = {};
        rows.product = p.y;
        rows.product_dtype = compute_dtype;
        rows.y = y;
        rows.y_dtype = args.y_dtype;
        rows.y_scales = args.y_scales == nullptr ? nullptr : args.y_scales + first;
        rows.y_stride = args.y_stride;
        rows.bias = args.bias;
        rows.half = shape.rows / 2;
        rows.m = p.m;
        rows.epilogue = args.epilogue;
        gate_rows(rows, stream, overlap);
      } else if (args.bias != nullptr) {
        add_bias(y, args.y_dtype, args.y_stride, args.bias, shape.rows, p.m, stream, overlap);
      }
    }
    return true;
  }
};

DeviceMatmul::DeviceMatmul(int32_t compute_dtype, const std::vector<MatmulShape>& shapes)
    : state_(std::make_unique<State>()) {
  if (!is_16_bit(compute_dtype)) {
    fail(OCTAVO_INVALID_ARGUMENT, "the compute dtype must be OCTAVO_BF16 or OCTAVO_F16, found %d", compute_dtype);
  }
  for (const MatmulShape& shape : shapes) check_shape(shape, compute_dtype);
  state_->compute_dtype = compute_dtype;
  state_->widens_only = !stream_takes_e4m3();
  state_->shapes = shapes;
  state_->in_library.assign(shapes.size(), false);
  state_->allocate();
  state_->prepare_library();
}

DeviceMatmul::~DeviceMatmul() = default;

bool DeviceMatmul::takes_e4m3(const DeviceMatrix& w, int32_t m) const { return state_->takes_e4m3(w.dtype, m); }

bool DeviceMatmul::makes_e4m3(const DeviceMatrix& w, int32_t m) const { return state_->makes_e4m3(w, m); }

void DeviceMatmul::multiply(const MatmulArgs& args, GpuStream stream, bool overlap) {
  if (args.m <= 0) return;
  const MatmulShape* shape = state_->find(args);
  if (shape == nullptr) {
    fail(OCTAVO_INVALID_ARGUMENT, "no product of %d tokens by %d x %d of dtype %d to dtype %d was prepared", args.m,
         args.w->rows, args.w->cols, args.w->dtype, args.y_dtype);
  }
  if ((args.x_scales != nullptr) != state_->takes_e4m3(args.w->dtype, args.m)) {
    fail(OCTAVO_INVALID_ARGUMENT, "x of %d tokens must %sbe E4M3 with scales", args.m,
         args.x_scales != nullptr ? "not " : "");
  }
  if (args.y_scales != nullptr && !(is_gate(args.epilogue) && state_->makes_e4m3(*args.w, args.m))) {
    fail(OCTAVO_INVALID_ARGUMENT, "y of %d tokens by %d x %d cannot be E4M3 with scales", args.m, args.w->rows,
         args.w->cols);
  }
  if (args.m > kStreamedMax && state_->library != nullptr &&
      state_->multiply_by_library(*shape, args, stream, overlap)) {
    return;
  }
  stream_matmul(args, state_->x_dtype(args.w->dtype, args.m), static_cast<float*>(state_->partials.data()),
                static_cast<int32_t*>(state_->counters.data()), stream, overlap);
}

int32_t DeviceMatmul::streamed_max_m() const { return kStreamedMax; }

DeviceMatmul::Shared DeviceMatmul::shared() const { return state_->shared; }

void DeviceMatmul::use_shared(void* workspace, void* gate) {
  state_->own_workspace.free();
  state_->own_gate.free();
  state_->workspace = workspace;
  state_->gate = gate;
}

const std::string& DeviceMatmul::library_note() const { return state_->note; }

}  // namespace octavo
