// ABI entries of the KV formats and pages (octavo.h, "Single kernels"): they check their arguments, the rest is in
// quantize.h and pages.h.
#include "arch/error.h"
#include "kv/checks.h"
#include "kv/pages.h"
#include "kv/quantize.h"

namespace octavo {
namespace {

// The arguments, and that every slot lies in the pages.
void check_tokens(const octavo_kv_shape* shape, const void* pages, const void* k, const void* v,
                  const int32_t* slot_mapping, int32_t num_tokens) {
  check_token_arguments(shape, pages, k, v, slot_mapping, num_tokens);
  const int64_t num_slots = int64_t{shape->num_pages} * shape->page_size;
  for (int32_t i = 0; i < num_tokens; ++i) {
    if (slot_mapping[i] < -1 || slot_mapping[i] >= num_slots) {
      fail(OCTAVO_INVALID_ARGUMENT, "slot of token %d must be -1 to %lld, found %d", i,
           static_cast<long long>(num_slots - 1), slot_mapping[i]);
    }
  }
}

}  // namespace
}  // namespace octavo

using octavo::check_not_null;

extern "C" double octavo_kv_layer_page_bytes(const octavo_kv_shape* shape) {
  double bytes = 0;
  octavo::guard([&] {
    check_not_null("shape", shape);
    octavo::check_kv_shape(*shape);
    bytes = static_cast<double>(octavo::kv_layer_page_bytes(*shape));
  });
  return bytes;
}

extern "C" int32_t octavo_quantize(int32_t kv_dtype, const float* x, int32_t n, float scale, uint8_t* stored) {
  return octavo::guard([&] {
    octavo::check_plain_kv_dtype(kv_dtype);
    octavo::check_count("n", n);
    octavo::check_scale(scale);
    if (n == 0) return;
    check_not_null("x", x);
    check_not_null("stored", stored);
    octavo::quantize(kv_dtype, x, n, scale, stored);
  });
}

extern "C" int32_t octavo_dequantize(int32_t kv_dtype, const uint8_t* stored, int32_t n, float scale, float* x) {
  return octavo::guard([&] {
    octavo::check_plain_kv_dtype(kv_dtype);
    octavo::check_count("n", n);
    octavo::check_scale(scale);
    if (n == 0) return;
    check_not_null("stored", stored);
    check_not_null("x", x);
    octavo::dequantize(kv_dtype, stored, n, scale, x);
  });
}

extern "C" int32_t octavo_kv_append(const octavo_kv_shape* shape, uint8_t* pages, const float* k, const float* v,
                                    const int32_t* slot_mapping, int32_t num_tokens, const float* scales,
                                    const float* k_mean) {
  return octavo::guard([&] {
    octavo::check_tokens(shape, pages, k, v, slot_mapping, num_tokens);
    octavo::check_scales_allowed(shape->kv_dtype, scales);
    octavo::check_mean_allowed(shape->kv_dtype, k_mean);
    octavo::check_scales(scales, shape->num_kv_heads);
    octavo::ThreadPool threads(1);  // in the order given: of a slot named twice, the last token stays
    const int64_t stride = int64_t{shape->num_kv_heads} * shape->head_dim;
    octavo::kv_append(*shape, pages, k, stride, v, stride, slot_mapping, num_tokens, {scales, k_mean}, threads);
  });
}

extern "C" int32_t octavo_kv_pack(const octavo_kv_shape* shape, uint8_t* pages, const uint8_t* k, const uint8_t* v,
                                  const int32_t* slot_mapping, int32_t num_tokens) {
  return octavo::guard([&] {
    octavo::check_tokens(shape, pages, k, v, slot_mapping, num_tokens);
    octavo::kv_pack(*shape, pages, k, v, slot_mapping, num_tokens);
  });
}

extern "C" int32_t octavo_kv_unpack(const octavo_kv_shape* shape, const uint8_t* pages, uint8_t* k, uint8_t* v,
                                    const int32_t* slot_mapping, int32_t num_tokens) {
  return octavo::guard([&] {
    octavo::check_tokens(shape, pages, k, v, slot_mapping, num_tokens);
    octavo::kv_unpack(*shape, pages, k, v, slot_mapping, num_tokens);
  });
}
