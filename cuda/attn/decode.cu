#include <algorithm>

#include "attn/decode.h"
#include "attn/decode_launcher.h"

namespace octavo {

namespace {

struct Choice {
  DecodeLauncher launcher;
  int tile_tokens;
  int item_cost;
};

DecodeLauncher find_by_dtype(int kv_dtype, int head_dim, int tiles, bool wide) {
  switch (kv_dtype) {
    case OCTAVO_KV_FP8_E4M3:
      return find_decode<StoredE4m3>(head_dim, tiles, wide);
    case OCTAVO_KV_FP8_PER_TOKEN_HEAD:
      return find_decode<StoredE4m3Token>(head_dim, tiles, wide);
    case OCTAVO_KV_INT8:
    case OCTAVO_KV_INT8_PER_TOKEN_HEAD:
      return find_decode<StoredInt8>(head_dim, tiles, wide);
    case OCTAVO_KV_K8V4:
      return find_decode<StoredK8V4>(head_dim, tiles, wide);
    case OCTAVO_KV_INT4:
      return find_decode<StoredInt4>(head_dim, tiles, wide);
    case OCTAVO_KV_FP8_E5M2:
      return find_decode<StoredE5m2>(head_dim, tiles, wide);
    case OCTAVO_KV_FLOAT16:
      return find_decode<StoredF16>(head_dim, tiles, wide);
    case OCTAVO_KV_BFLOAT16:
      return find_decode<StoredBf16>(head_dim, tiles, wide);
    default:
      fail(OCTAVO_UNSUPPORTED, "attention on the GPU reads every kv_dtype but float32, kv_dtype is %d", kv_dtype);
  }
}

// The narrowest tile that holds the queries of a sequence, the widest where none does: its rows then share the keys'
// loads among as many queries as fit.
Choice choose(int kv_dtype, int head_dim, int group, int max_query_len) {
  const GpuDevice& device = gpu_device();
  const bool wide = device.compute_major == 9 || device.compute_major == 10;
  const int64_t columns = static_cast<int64_t>(group) * max_query_len;
  int tiles = columns <= 8 ? 1 : columns <= 16 || head_dim > 128 ? 2 : 4;
  DecodeLauncher launcher = find_by_dtype(kv_dtype, head_dim, tiles, wide);
  if (launcher.launch == nullptr) {
    fail(OCTAVO_UNSUPPORTED, "attention on the GPU has head_dim 64, 80, 96, 112, 128, 192 and 256, found %d", head_dim);
  }
  if (group > 8 * tiles) {
    fail(OCTAVO_UNSUPPORTED, "attention on the GPU has at most %d q heads a kv head at head_dim %d, found %d",
         8 * tiles, head_dim, group);
  }
  // Measured on an H100: decode waits for memory, which hides most of an item's merge; wide tiles compute throughout.
  const int item_cost = tiles == 1 ? 2 : tiles == 2 ? 8 : 32;
  return {launcher, 8 * tiles / group, item_cost};
}

}  // namespace

DecodeShape decode_shape(int kv_dtype, int head_dim, int group, int max_query_len) {
  const Choice choice = choose(kv_dtype, head_dim, group, max_query_len);
  return {choice.launcher.step_tokens, choice.tile_tokens, std::min(gpu_device().num_sms, kMaxRanges),
          choice.launcher.slot_floats, choice.item_cost,   choice.launcher.walk};
}

void run_decode(const DecodeParams& params, int kv_dtype, int head_dim, int max_query_len, GpuStream stream,
                bool overlap) {
  const Choice choice = choose(kv_dtype, head_dim, params.group, max_query_len);
  choice.launcher.launch(params, std::min(gpu_device().num_sms, kMaxRanges), stream, overlap);
}

}  // namespace octavo
