#include "gemm/library_matmul.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>
#include <vector>

#include "arch/cublaslt.h"

namespace octavo {
namespace {

cudaDataType_t library_type(int32_t dtype) {
  switch (dtype) {
    case OCTAVO_F32: return CUDA_R_32F;
    case OCTAVO_F16: return CUDA_R_16F;
    case OCTAVO_BF16: return CUDA_R_16BF;
    default: return CUDA_R_8F_E4M3;
  }
}

// Numbers of tokens share an algorithm up to the next of 96, 128, 192, 256, then every 64 up to 1024, every 256 up to 2048,
// and 3072, 4096, 6144, ... One that suits the next of fewer is up to a fifth slower: its tiles do not fill the card.
int32_t bucket_of(int32_t m) {
  if (m > 128 && m <= 1024) return (m + 63) / 64 * 64;
  if (m > 1024 && m <= 2048) return (m + 255) / 256 * 256;
  int32_t power = 64;
  while (power < m) {
    if (power + power / 2 >= m) return power + power / 2;
    power *= 2;
  }
  return power;
}

constexpr int32_t kCandidates = 8;      // of the heuristic's, that are timed
constexpr int kRuns = 4;                // of each
constexpr float kEnoughFaster = 0.96f;  // than the first, of which runs then mostly agree which it is

class Stopwatch {
 public:
  Stopwatch() {
    OCTAVO_GPU_CHECK(cudaEventCreate(&begin_));
    OCTAVO_GPU_CHECK(cudaEventCreate(&end_));
  }
  ~Stopwatch() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  Stopwatch(const Stopwatch&) = delete;
  void start(GpuStream stream) { OCTAVO_GPU_CHECK(cudaEventRecord(begin_, stream)); }
  float stop_ms(GpuStream stream) {
    OCTAVO_GPU_CHECK(cudaEventRecord(end_, stream));
    OCTAVO_GPU_CHECK(cudaEventSynchronize(end_));
    float ms = 0;
    OCTAVO_GPU_CHECK(cudaEventElapsedTime(&ms, begin_, end_));
    return ms;
  }

 private:
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

// rows, cols, dtype, y_dtype, add, bucket
using Key = std::tuple<int32_t, int32_t, int32_t, int32_t, bool, int32_t>;

Key key_of(const LibraryProduct& p, int32_t bucket) { return {p.rows, p.cols, p.dtype, p.y_dtype, p.add, bucket}; }

// One call's descriptions, in cuBLASLt's column-major terms: D[rows x m] = W^T[cols x rows]^T x^T[cols x m].
class Description {
 public:
  Description(const CublasLt& lt, const LibraryProduct& p) : lt_(lt) {
    ok_ = lt.MatmulDescCreate(&operation, kCublasCompute32F, CUDA_R_32F) == 0;
    set(kOperationTransposeA, kCublasTranspose);
    if (p.dtype == OCTAVO_F8_E4M3) {
      set(kOperationFastSums, int8_t{1});
      set(kOperationScaleModeA, kScaleOuterVector);
      set(kOperationScaleModeB, kScaleOuterVector);
      set(kOperationScaleA, p.row_scales);
      set(kOperationScaleB, p.x_scales);
    }
    const uint64_t rows = static_cast<uint64_t>(p.rows);
    const uint64_t cols = static_cast<uint64_t>(p.cols);
    const uint64_t m = static_cast<uint64_t>(p.m);
    layout(&a, p.dtype, cols, rows, p.cols);
    layout(&b, p.dtype, cols, m, p.x_stride);
    layout(&d, p.y_dtype, rows, m, p.y_stride);
  }
  ~Description() {
    for (CublasLtLayout* one : {a, b, d}) {
      if (one != nullptr) lt_.MatrixLayoutDestroy(one);
    }
    if (operation != nullptr) lt_.MatmulDescDestroy(operation);
  }
  Description(const Description&) = delete;
  Description& operator=(const Description&) = delete;

  bool ok() const { return ok_; }  // the library knows all of it

  CublasLtOperation* operation = nullptr;
  CublasLtLayout* a = nullptr;
  CublasLtLayout* b = nullptr;
  CublasLtLayout* d = nullptr;

 private:
  template <class Value>
  void set(int32_t attribute, const Value& value) {
    ok_ = ok_ && lt_.MatmulDescSetAttribute(operation, attribute, &value, sizeof value) == 0;
  }
  void layout(CublasLtLayout** to, int32_t dtype, uint64_t rows, uint64_t cols, int64_t stride) {
    ok_ = ok_ && lt_.MatrixLayoutCreate(to, library_type(dtype), rows, cols, stride) == 0;
  }

  const CublasLt& lt_;
  bool ok_;
};

}  // namespace

struct LibraryMatmul::State {
  const CublasLt* lt = nullptr;
  CublasLtContext* context = nullptr;
  std::string note;
  size_t workspace_bytes;
  std::map<Key, CublasLtAlgorithm> algorithms;

  // What the heuristic offers, best first.
  std::vector<CublasLtAlgorithm> list_candidates(const Description& description) const {
    CublasLtPreference* preference = nullptr;
    if (lt->MatmulPreferenceCreate(&preference) != 0) return {};
    CublasLtHeuristic results[kCandidates] = {};
    int32_t found = 0;
    bool ok = lt->MatmulPreferenceSetAttribute(preference, kPreferenceWorkspaceBytes, &workspace_bytes,
                                               sizeof workspace_bytes) == 0;
    for (int32_t operand = 0; operand < 4; ++operand) {
      const uint32_t alignment = 16;
      ok = ok && lt->MatmulPreferenceSetAttribute(preference, kPreferenceAlignmentA + operand, &alignment,
                                                  sizeof alignment) == 0;
    }
    ok = ok && lt->MatmulAlgoGetHeuristic(context, description.operation, description.a, description.b,
                                          description.d, description.d, preference, kCandidates, results, &found) == 0;
    lt->MatmulPreferenceDestroy(preference);
    std::vector<CublasLtAlgorithm> candidates;
    for (int32_t i = 0; ok && i < found; ++i) {
      if (results[i].status == 0) candidates.push_back(results[i].algorithm);
    }
    return candidates;
  }

  // Milliseconds of kRuns products, each with other weights of w_bytes of memory; infinite if one is refused.
  float time_runs(LibraryProduct p, const CublasLtAlgorithm& algorithm, const LibraryMemory& memory, GpuStream stream) {
    const Description description(*lt, p);
    const size_t used = static_cast<size_t>(p.rows) * p.cols * (p.dtype == OCTAVO_F8_E4M3 ? 1 : 2);
    const uint8_t* first = static_cast<const uint8_t*>(p.w);
    const auto run_once = [&](size_t i) {
      const size_t copies = std::max<size_t>(1, memory.w_bytes / used);
      p.w = first + i % copies * used;
      return run(p, description, algorithm, memory.workspace, stream);
    };
    if (!description.ok() || !run_once(0)) return INFINITY;
    Stopwatch watch;
    watch.start(stream);
    for (size_t i = 1; i <= kRuns; ++i) {
      if (!run_once(i)) return INFINITY;
    }
    return watch.stop_ms(stream);
  }

  // The first candidate, or one that is clearly faster. product.m: the bucket; max_m: tokens that the memory holds.
  bool choose(const LibraryProduct& product, int32_t max_m, const LibraryMemory& memory, GpuStream stream) {
    const Description description(*lt, product);
    if (!description.ok()) return false;
    LibraryProduct timed = product;
    timed.m = std::min(product.m, max_m);
    float best_ms = INFINITY;
    for (const CublasLtAlgorithm& candidate : list_candidates(description)) {
      const float ms = time_runs(timed, candidate, memory, stream);
      if (ms > best_ms * kEnoughFaster) continue;
      best_ms = ms;
      algorithms[key_of(product, product.m)] = candidate;
    }
    return best_ms < INFINITY;
  }

  bool run(const LibraryProduct& p, const Description& description, const CublasLtAlgorithm& algorithm,
           void* workspace, GpuStream stream) const {
    const float alpha = 1.0f;
    const float beta = p.add ? 1.0f : 0.0f;
    return lt->Matmul(context, description.operation, &alpha, p.w, description.a, p.x, description.b, &beta, p.y,
                      description.d, p.y, description.d, &algorithm, workspace, workspace_bytes, stream) == 0;
  }
};

LibraryMatmul::LibraryMatmul(size_t workspace_bytes) : state_(std::make_unique<State>()) {
  state_->workspace_bytes = workspace_bytes;
  state_->lt = load_cublaslt(&state_->note);
  if (state_->lt == nullptr) return;
  if (const int32_t status = state_->lt->Create(&state_->context); status != 0) {
    state_->note += ", which does not work on this card (cublasLtCreate returned " + std::to_string(status) +
                    "): prompts run on slower kernels";
    state_->lt = nullptr;
  }
}

LibraryMatmul::~LibraryMatmul() {
  if (state_->context != nullptr) state_->lt->Destroy(state_->context);
}

bool LibraryMatmul::is_usable() const { return state_->lt != nullptr; }

const std::string& LibraryMatmul::note() const { return state_->note; }

bool LibraryMatmul::prepare(const LibraryProduct& product, int32_t max_m, const LibraryMemory& memory,
                            GpuStream stream) {
  if (!is_usable()) return false;
  for (int32_t m = bucket_of(1);; m = bucket_of(m + 1)) {
    LibraryProduct one = product;
    one.m = m;
    if (!state_->choose(one, max_m, memory, stream)) return false;
    if (m >= max_m) return true;
  }
}

bool LibraryMatmul::multiply(const LibraryProduct& product, void* workspace, GpuStream stream) {
  if (!is_usable()) return false;
  const auto found = state_->algorithms.find(key_of(product, bucket_of(product.m)));
  if (found == state_->algorithms.end()) return false;
  const Description description(*state_->lt, product);
  return description.ok() && state_->run(product, description, found->second, workspace, stream);
}

}  // namespace octavo
