#include "attn/prefill.h"

#include "attn/prefill_launcher.h"

namespace octavo {

namespace {

PrefillLauncher find_general(int kv_dtype, int head_dim) {
  switch (kv_dtype) {
    case OCTAVO_KV_FP8_E4M3:
      return find_prefill_mma<StoredE4m3>(head_dim);
    case OCTAVO_KV_FP8_E5M2:
      return find_prefill_mma<StoredE5m2>(head_dim);
    case OCTAVO_KV_FLOAT16:
      return find_prefill_mma<StoredF16>(head_dim);
    case OCTAVO_KV_BFLOAT16:
      return find_prefill_mma<StoredBf16>(head_dim);
    default:
      return {};  // formats with scales of their own
  }
}

// Every format but bfloat16 comes as f16, from the pages or from the scratch.
PrefillLauncher find_fast(int kv_dtype, int head_dim) {
  if (gpu_device().compute_major != 9 || kv_dtype == OCTAVO_KV_FLOAT32) return {};
  return kv_dtype == OCTAVO_KV_BFLOAT16 ? find_prefill_wgmma<true>(head_dim) : find_prefill_wgmma<false>(head_dim);
}

// The fast kernel takes whole column blocks of 64 dims: shorter rows are filled up in the scratch.
int padded_dim(int head_dim) { return (head_dim + 63) / 64 * 64; }

}  // namespace

PrefillShape prefill_shape(int kv_dtype, int head_dim) {
  const PrefillLauncher general = find_general(kv_dtype, head_dim);
  PrefillShape shape = {};
  shape.has_general = general.launch != nullptr;
  const PrefillLauncher fast = find_fast(kv_dtype, padded_dim(head_dim));
  shape.has_fast = fast.launch != nullptr;
  shape.tile_rows[kFastList] = shape.has_fast ? fast.tile_rows : general.tile_rows;
  shape.tile_rows[kGeneralList] = shape.has_general ? general.tile_rows : fast.tile_rows;
  shape.scratch_dim = padded_dim(head_dim);
  shape.scratch_granule_bytes = 2 * half_granule_bytes(row_bytes_of(shape.scratch_dim, 2));
  const bool is_16_bit = kv_dtype == OCTAVO_KV_FLOAT16 || kv_dtype == OCTAVO_KV_BFLOAT16;
  shape.fast_reads_pages = shape.has_fast && is_16_bit && shape.scratch_dim == head_dim;
  return shape;
}

void run_prefill(const PrefillParams& params, int list, int kv_dtype, int max_tiles, GpuStream stream, bool overlap) {
  const PrefillLauncher launcher = list == kFastList ? find_fast(kv_dtype, padded_dim(params.head_dim))
                                                     : find_general(kv_dtype, params.head_dim);
  launcher.launch(params, max_tiles * params.kv.num_kv_heads, stream, overlap);
}

}  // namespace octavo
