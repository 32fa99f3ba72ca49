#include "arch/tensor_map.h"

#include <cudaTypedefs.h>

#include "arch/gpu.h"

namespace octavo {
namespace {

PFN_cuTensorMapEncodeTiled_v12000 find_encoder() {
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found;
  OCTAVO_GPU_CHECK(
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found));
  if (found != cudaDriverEntryPointSuccess || entry == nullptr) {
    fail(OCTAVO_UNSUPPORTED, "the driver has no cuTensorMapEncodeTiled: version 525 or newer is needed");
  }
  return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(entry);
}

}  // namespace

CUtensorMap make_tensor_map(const TensorBox& box) {
  static const PFN_cuTensorMapEncodeTiled_v12000 encode = find_encoder();
  const cuuint32_t element_strides[4] = {1, 1, 1, 1};
  CUtensorMap map;
  const CUresult result =
      encode(&map, box.type, static_cast<cuuint32_t>(box.rank), const_cast<void*>(box.base), box.sizes, box.strides,
             box.box, element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    fail(OCTAVO_INTERNAL, "cuTensorMapEncodeTiled refused a tensor of %llu x %llu elements at %p: error %d",
         static_cast<unsigned long long>(box.sizes[1]), static_cast<unsigned long long>(box.sizes[0]), box.base,
         static_cast<int>(result));
  }
  return map;
}

}  // namespace octavo
