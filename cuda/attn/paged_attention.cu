#include <algorithm>

#include "attn/paged_attention.h"
#include "kv/format.h"

namespace octavo {

struct AttentionWorkspace::Block {
  uint8_t* memory = nullptr;
  int64_t size_bytes = 0;
  Block* older = nullptr;
};

AttentionWorkspace::~AttentionWorkspace() {
  while (block_ != nullptr) {
    Block* older = block_->older;
    cudaFree(block_->memory);
    delete block_;
    block_ = older;
  }
}

AttentionWorkspace::View AttentionWorkspace::reserve(int max_rows, int max_seqs, const DecodeShape& shape,
                                                     GpuStream stream) {
  const int64_t num_ranges = shape.num_ranges;
  int64_t size = 0;
  const auto take = [&size](int64_t bytes) {
    const int64_t at = size;
    size += (bytes + 255) / 256 * 256;
    return at;
  };
  const int64_t counters = take(2 * kMaxRanges * 4);  // first: the same place in every layout, so they stay zero
  const int64_t ranges = take(num_ranges * static_cast<int64_t>(sizeof(PlanRange)));
  const int64_t rows = take(static_cast<int64_t>(max_rows) * sizeof(PlanRow));
  const int64_t row_cost = take((static_cast<int64_t>(max_rows) + 1) * 8);
  const int64_t seq_row = take((static_cast<int64_t>(max_seqs) + 1) * 4);
  const int64_t seq_token = take((static_cast<int64_t>(max_seqs) + 1) * 4);
  const int64_t partials = take(3 * num_ranges * shape.slot_floats * 4);
  const int64_t first_pages = take(num_ranges * shape.walk.num_pages() * 4);
  if (block_ == nullptr || block_->size_bytes < size) {
    auto* next =
        new Block{nullptr, std::max(size, block_ == nullptr ? int64_t{16} << 20 : 2 * block_->size_bytes), block_};
    const cudaError_t status = cudaMalloc(&next->memory, static_cast<size_t>(next->size_bytes));
    if (status != cudaSuccess) {
      delete next;
      OCTAVO_GPU_CHECK(status);
    }
    block_ = next;
    OCTAVO_GPU_CHECK(cudaMemsetAsync(block_->memory, 0, 2 * kMaxRanges * 4, stream));
  }
  uint8_t* base = block_->memory;
  return {reinterpret_cast<PlanRow*>(base + rows),
          reinterpret_cast<PlanRange*>(base + ranges),
          reinterpret_cast<int64_t*>(base + row_cost),
          reinterpret_cast<int32_t*>(base + seq_row),
          reinterpret_cast<int32_t*>(base + seq_token),
          reinterpret_cast<int32_t*>(base + counters),
          reinterpret_cast<float*>(base + partials),
          reinterpret_cast<int32_t*>(base + first_pages),
          max_rows};
}

KvGeometry kv_geometry(const octavo_kv_shape& shape) {
  KvGeometry geometry;
  const KvFormat format = kv_format(shape.kv_dtype);
  geometry.row_bytes = round_up_to_chunk(format.key.codes_bytes(shape.head_dim));
  geometry.value_row_bytes = round_up_to_chunk(format.value.codes_bytes(shape.head_dim));
  geometry.value_at = half_granule_bytes(geometry.row_bytes);
  geometry.key_scales_at = geometry.value_at + half_granule_bytes(geometry.value_row_bytes);
  geometry.value_scales_at = geometry.key_scales_at + kGranuleTokens * format.key.scales_bytes();
  geometry.granule_bytes = geometry.value_scales_at + kGranuleTokens * format.value.scales_bytes();
  geometry.page_shift = shape.page_size == 16 ? 4 : shape.page_size == 32 ? 5 : 6;
  geometry.num_kv_heads = shape.num_kv_heads;
  geometry.page_bytes =
      static_cast<int64_t>(shape.num_kv_heads) * (shape.page_size / kGranuleTokens) * geometry.granule_bytes;
  return geometry;
}

void paged_attention(const PagedAttentionArgs& args, AttentionWorkspace& workspace, GpuStream stream, bool overlap,
                     const PlanTuning& tuning) {
  const octavo_attention_config& config = args.config;
  const int group = config.num_q_heads / args.shape.num_kv_heads;
  const DecodeShape shape = decode_shape(args.shape.kv_dtype, args.shape.head_dim, group, args.max_query_len);
  const int max_rows = config.num_seqs + config.num_tokens / shape.tile_tokens;
  const auto space = workspace.reserve(max_rows, config.num_seqs, shape, stream);
  if (config.reuse_plan == 0) {
    PlanParams plan = {};
    plan.query_len = args.query_len;
    plan.seq_len = args.seq_len;
    plan.num_seqs = config.num_seqs;
    plan.num_tokens = config.num_tokens;
    plan.tile_tokens = shape.tile_tokens;
    plan.num_kv_heads = args.shape.num_kv_heads;
    plan.step_tokens = shape.step_tokens;
    plan.sliding_window = config.sliding_window;
    plan.max_kv = static_cast<int32_t>(
        std::min<int64_t>(static_cast<int64_t>(config.max_pages_per_seq) * args.shape.page_size, INT32_MAX / 2));
    plan.num_ranges = shape.num_ranges;
    plan.item_cost = tuning.item_cost >= 0 ? tuning.item_cost : shape.item_cost;
    plan.min_range_steps = tuning.min_range_steps;
    plan.max_rows = space.max_rows;
    plan.rows = space.rows;
    plan.row_cost = space.row_cost;
    plan.seq_row = space.seq_row;
    plan.seq_token = space.seq_token;
    plan.ranges = space.ranges;
    plan.walk = shape.walk;
    plan.page_table = args.page_table;
    plan.max_pages = config.max_pages_per_seq;
    plan.page_shift = kv_geometry(args.shape).page_shift;
    plan.first_pages = space.first_pages;
    make_plan(plan, stream, overlap);
  }
  DecodeParams params = {};
  params.pages = args.pages;
  params.kv = kv_geometry(args.shape);
  params.num_pages = args.shape.num_pages;
  params.q = args.q;
  params.out = args.out;
  params.lse = args.lse;
  params.page_table = args.page_table;
  params.scales = args.scales;
  params.sinks = args.sinks;
  params.q_dtype = config.q_dtype;
  params.max_pages = config.max_pages_per_seq;
  params.num_q_heads = config.num_q_heads;
  params.group = group;
  params.sliding_window = config.sliding_window;
  params.softmax_scale = config.softmax_scale;
  params.logit_softcap = config.logit_softcap;
  params.rows = space.rows;
  params.ranges = space.ranges;
  params.first_pages = space.first_pages;
  params.early = overlap && config.reuse_plan != 0 && args.early;
  params.partials = space.partials;
  params.counters = space.counters;
  run_decode(params, args.shape.kv_dtype, args.shape.head_dim, args.max_query_len, stream, overlap);
}

}  // namespace octavo
