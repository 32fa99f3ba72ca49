// cuBLASLt, loaded by name when it is first needed: the library needs no CUDA toolkit to be built or started. The
// declarations are our own, of the part of its C API that is used; names and values are those of NVIDIA's documentation.
#pragma once

#include <cuda_runtime.h>
#include <library_types.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace octavo {

struct CublasLtContext;
struct CublasLtOperation;
struct CublasLtLayout;
struct CublasLtPreference;

struct CublasLtAlgorithm {
  uint64_t data[8];
};

struct CublasLtHeuristic {
  CublasLtAlgorithm algorithm;
  size_t workspace_bytes;
  int32_t status;
  float waves;
  int32_t reserved[4];
};

constexpr int32_t kCublasCompute32F = 68;
constexpr int32_t kCublasTranspose = 1;
constexpr int32_t kOperationTransposeA = 3;   // int32
constexpr int32_t kOperationScaleA = 17;      // device pointer
constexpr int32_t kOperationScaleB = 18;
constexpr int32_t kOperationFastSums = 25;    // int8
constexpr int32_t kOperationScaleModeA = 31;  // int32
constexpr int32_t kOperationScaleModeB = 32;
constexpr int32_t kScaleOuterVector = 3;      // f32 of each row of A, each column of B
constexpr int32_t kPreferenceWorkspaceBytes = 1;  // size_t
constexpr int32_t kPreferenceAlignmentA = 5;      // uint32, bytes; of B, C and D follow

// The functions by their names without "cublasLt"; each returns 0 or a cublasStatus_t.
struct CublasLt {
  int32_t (*Create)(CublasLtContext** context);
  int32_t (*Destroy)(CublasLtContext* context);
  int32_t (*MatmulDescCreate)(CublasLtOperation** operation, int32_t compute_type, int32_t scale_type);
  int32_t (*MatmulDescDestroy)(CublasLtOperation* operation);
  int32_t (*MatmulDescSetAttribute)(CublasLtOperation* operation, int32_t attribute, const void* value, size_t bytes);
  int32_t (*MatrixLayoutCreate)(CublasLtLayout** layout, int32_t type, uint64_t rows, uint64_t cols, int64_t stride);
  int32_t (*MatrixLayoutDestroy)(CublasLtLayout* layout);
  int32_t (*MatmulPreferenceCreate)(CublasLtPreference** preference);
  int32_t (*MatmulPreferenceDestroy)(CublasLtPreference* preference);
  int32_t (*MatmulPreferenceSetAttribute)(CublasLtPreference* preference, int32_t attribute, const void* value,
                                          size_t bytes);
  int32_t (*MatmulAlgoGetHeuristic)(CublasLtContext* context, CublasLtOperation* operation, CublasLtLayout* a,
                                    CublasLtLayout* b, CublasLtLayout* c, CublasLtLayout* d,
                                    CublasLtPreference* preference, int32_t wanted, CublasLtHeuristic* results,
                                    int32_t* found);
  int32_t (*Matmul)(CublasLtContext* context, CublasLtOperation* operation, const void* alpha, const void* a,
                    CublasLtLayout* a_layout, const void* b, CublasLtLayout* b_layout, const void* beta, const void* c,
                    CublasLtLayout* c_layout, void* d, CublasLtLayout* d_layout, const CublasLtAlgorithm* algorithm,
                    void* workspace, size_t workspace_bytes, cudaStream_t stream);
  size_t (*GetVersion)();
};

// The library, or nullptr where none can be loaded. note: what was loaded, or what was tried, why it failed and what to
// install.
const CublasLt* load_cublaslt(std::string* note);

}  // namespace octavo
