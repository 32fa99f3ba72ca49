#include "kv/shape.h"

#include <limits>

#include "arch/error.h"
#include "kv/granule.h"

namespace octavo {
namespace {

constexpr int32_t kMaxHeads = 65536;
constexpr int32_t kMaxHeadDim = 256;

void check_range(const char* name, int32_t value, int32_t low, int32_t high) {
  if (value < low || value > high) {
    fail(OCTAVO_INVALID_ARGUMENT, "%s must be %d to %d, found %d", name, low, high, value);
  }
}

}  // namespace

void check_kv_dtype(int32_t kv_dtype) {
  check_range("kv_dtype (octavo_kv_dtype)", kv_dtype, OCTAVO_KV_FLOAT32, OCTAVO_KV_INT4);
}

void check_plain_kv_dtype(int32_t kv_dtype) {
  check_range("kv_dtype of single values", kv_dtype, OCTAVO_KV_FLOAT32, OCTAVO_KV_FP8_E5M2);
}

void check_kv_shape(const octavo_kv_shape& shape) {
  check_kv_dtype(shape.kv_dtype);
  if (shape.page_size != 16 && shape.page_size != 32 && shape.page_size != 64) {
    fail(OCTAVO_INVALID_ARGUMENT, "page_size must be 16, 32 or 64, found %d", shape.page_size);
  }
  check_range("num_pages", shape.num_pages, 1, std::numeric_limits<int32_t>::max());
  check_range("num_kv_heads", shape.num_kv_heads, 1, kMaxHeads);
  check_range("head_dim", shape.head_dim, 8, kMaxHeadDim);
  if (shape.head_dim % 8 != 0) {
    fail(OCTAVO_INVALID_ARGUMENT, "head_dim must be a multiple of 8, found %d", shape.head_dim);
  }
  const KvFormat format = kv_format(shape.kv_dtype);
  if (format.value.scales == KvScales::kGroups && shape.head_dim % kGroupDims != 0) {
    fail(OCTAVO_UNSUPPORTED, "kv_dtype %d needs a head_dim that is a multiple of %d, found %d", shape.kv_dtype,
         kGroupDims, shape.head_dim);
  }
  const GranuleLayout layout(shape);
  if (shape.page_stride % kChunkBytes != 0 || layout.page_stride < layout.page_bytes) {
    fail(OCTAVO_INVALID_ARGUMENT, "page_stride must be a multiple of %d and at least a page's %lld bytes, found %d",
         kChunkBytes, static_cast<long long>(layout.page_bytes), shape.page_stride);
  }
  // At most 2^16 heads x 2^17 bytes a page and 2^31 pages: the product needs a check.
  if (layout.page_stride > std::numeric_limits<int64_t>::max() / shape.num_pages) {
    fail(OCTAVO_INVALID_ARGUMENT, "num_pages %d of %lld bytes exceed the address space", shape.num_pages,
         static_cast<long long>(layout.page_stride));
  }
}

int64_t kv_layer_page_bytes(const octavo_kv_shape& shape) { return GranuleLayout(shape).page_bytes; }

}  // namespace octavo
