#include <algorithm>

#include "attn/paged_attention.h"
#include "kv/format.h"
#include "kv/shape.h"

namespace octavo {

struct AttentionWorkspace::Block {
  uint8_t* memory = nullptr;
  int64_t size_bytes = 0;
  int64_t slot_bytes = 0;  // of them, at the front: slots of partial results, empty between launches
  Block* older = nullptr;
};

AttentionWorkspace::~AttentionWorkspace() {
  if (owns_scratch_) cudaFree(scratch_);
  while (block_ != nullptr) {
    Block* older = block_->older;
    cudaFree(block_->memory);
    delete block_;
    block_ = older;
  }
}

AttentionWorkspace::View AttentionWorkspace::reserve(const Needs& needs, GpuStream stream) {
  const int64_t num_ranges = needs.shape.num_ranges;
  const int64_t max_seqs = needs.max_seqs;
  const int64_t slot_bytes = (num_ranges * needs.shape.slot_floats * 4 + 255) / 256 * 256;
  int64_t size = 0;
  const auto take = [&size](int64_t bytes) {
    const int64_t at = size;
    size += (bytes + 255) / 256 * 256;
    return at;
  };
  const int64_t ranges = take(num_ranges * static_cast<int64_t>(sizeof(PlanRange)));
  const int64_t rows = take(static_cast<int64_t>(needs.max_rows) * sizeof(PlanRow));
  const int64_t row_cost = take((static_cast<int64_t>(needs.max_rows) + 1) * 8);
  const int64_t seq_row = take((max_seqs + 1) * 4);
  const int64_t seq_token = take((max_seqs + 1) * 4);
  const int64_t first_pages = take(num_ranges * needs.shape.walk.num_pages() * 4);
  const int64_t prefill_seqs = needs.max_tiles > 0 ? max_seqs : 0;
  const int64_t tiles = take(kPrefillLists * int64_t{needs.max_tiles} * sizeof(PrefillTile));
  const int64_t spans = take(prefill_seqs * sizeof(ScratchSpan));
  const int64_t counts = take(kNumPrefillCounts * 4);
  const int64_t sums = take(kNumPrefillSums * (prefill_seqs + 1) * 4);
  if (block_ == nullptr || block_->slot_bytes < slot_bytes || block_->size_bytes < block_->slot_bytes + size) {
    auto* next = new Block{nullptr, 0, slot_bytes, block_};
    if (block_ != nullptr) next->slot_bytes = std::max(slot_bytes, block_->slot_bytes);
    next->size_bytes = std::max(next->slot_bytes + size, block_ == nullptr ? int64_t{16} << 20 : 2 * block_->size_bytes);
    const cudaError_t status = cudaMalloc(&next->memory, static_cast<size_t>(next->size_bytes));
    if (status != cudaSuccess) {
      delete next;
      OCTAVO_GPU_CHECK(status);
    }
    block_ = next;
    static_assert(kEmptyWord == ~0u, "empty slots are bytes 0xFF");
    OCTAVO_GPU_CHECK(cudaMemsetAsync(block_->memory, 0xFF, static_cast<size_t>(block_->slot_bytes), stream));
  }
  uint8_t* base = block_->memory + block_->slot_bytes;
  View view = {reinterpret_cast<PlanRow*>(base + rows),
               reinterpret_cast<PlanRange*>(base + ranges),
               reinterpret_cast<int64_t*>(base + row_cost),
               reinterpret_cast<int32_t*>(base + seq_row),
               reinterpret_cast<int32_t*>(base + seq_token),
               reinterpret_cast<float*>(block_->memory),
               reinterpret_cast<int32_t*>(base + first_pages),
               needs.max_rows,
               {},
               reinterpret_cast<ScratchSpan*>(base + spans),
               reinterpret_cast<int32_t*>(base + counts),
               {},
               needs.max_tiles};
  for (int list = 0; list < kPrefillLists; ++list) {
    view.tiles[list] = reinterpret_cast<PrefillTile*>(base + tiles) + int64_t{list} * needs.max_tiles;
  }
  for (int i = 0; i < kNumPrefillSums; ++i) {
    view.prefill_sums[i] = reinterpret_cast<int32_t*>(base + sums) + i * (prefill_seqs + 1);
  }
  return view;
}

void AttentionWorkspace::use_scratch(void* memory, int64_t size_bytes) {
  if (owns_scratch_) cudaFree(scratch_);
  owns_scratch_ = false;
  scratch_ = static_cast<uint8_t*>(memory);
  scratch_bytes_ = size_bytes;
}

uint8_t* AttentionWorkspace::scratch(int64_t wanted_bytes) {
  const int64_t size = std::min(wanted_bytes, kDefaultScratchBytes);
  if (owns_scratch_ && size > scratch_bytes_) {
    cudaFree(scratch_);  // waits until nothing uses it
    scratch_ = nullptr;
    scratch_bytes_ = 0;
    OCTAVO_GPU_CHECK(cudaMalloc(&scratch_, static_cast<size_t>(size)));
    scratch_bytes_ = size;
  }
  return scratch_;
}

KvGeometry kv_geometry(const octavo_kv_shape& shape) {
  KvGeometry geometry;
  const KvFormat format = kv_format(shape.kv_dtype);
  geometry.row_bytes = round_up_to_chunk(format.key.codes_bytes(shape.head_dim));
  geometry.value_row_bytes = round_up_to_chunk(format.value.codes_bytes(shape.head_dim));
  geometry.value_at = half_granule_bytes(geometry.row_bytes);
  geometry.key_scales_at = geometry.value_at + half_granule_bytes(geometry.value_row_bytes);
  geometry.value_scales_at = geometry.key_scales_at + kGranuleTokens * format.key.scales_bytes(shape.head_dim);
  geometry.granule_bytes = geometry.value_scales_at + kGranuleTokens * format.value.scales_bytes(shape.head_dim);
  geometry.page_shift = shape.page_size == 16 ? 4 : shape.page_size == 32 ? 5 : 6;
  geometry.num_kv_heads = shape.num_kv_heads;
  // From one page to the next.
  geometry.page_bytes = shape.page_stride == 0 ? kv_layer_page_bytes(shape) : shape.page_stride;
  return geometry;
}

namespace {

// How a call's sequences are shared between the kernels.
struct Split {
  bool decodes;            // some sequences may be decode's
  bool prefills;           // some sequences may be prefill's
  int32_t longest_decode;  // new tokens of decode's sequences at most
};

int group_of(const PagedAttentionArgs& args) { return args.config.num_q_heads / args.shape.num_kv_heads; }

int32_t max_kv(const PagedAttentionArgs& args) {
  return static_cast<int32_t>(std::min<int64_t>(
      static_cast<int64_t>(args.config.max_pages_per_seq) * args.shape.page_size, INT32_MAX / 2));
}

// Prefill's kernels do not share a tile's keys among blocks: with too few rows for the card, decode's are faster.
Split split_batch(const PagedAttentionArgs& args) {
  const octavo_kv_shape& shape = args.shape;
  const octavo_attention_config& config = args.config;
  const int widest = decode_shape(shape.kv_dtype, shape.head_dim, group_of(args), 32).tile_tokens;
  const Split decode_only = {true, false, INT32_MAX};
  if (args.max_query_len <= widest) return decode_only;
  const PrefillShape prefill = prefill_shape(shape.kv_dtype, shape.head_dim);
  if (!prefill.has_general && !prefill.has_fast) return decode_only;
  const int64_t rows = int64_t{config.num_tokens} * config.num_q_heads;
  const int speed = prefill.has_fast ? 3 : 2;  // against decode's kernels, about
  if (rows * speed < int64_t{gpu_device().num_sms} * prefill.tile_rows[kFastList]) return decode_only;
  if (!prefill.has_general) return {true, true, widest};  // what does not fit in the scratch is decode's
  if (config.num_seqs == 1 || args.max_decode_len == 0) return {false, true, 0};
  return {true, true, args.max_decode_len < 0 ? widest : std::min(args.max_decode_len, widest)};
}

int count_decode_rows(int num_seqs, int num_tokens, const DecodeShape& shape) {
  return num_seqs + num_tokens / shape.tile_tokens;
}

int count_prefill_tiles(int num_seqs, int num_tokens, int group, const PrefillShape& shape) {
  const int rows = std::min(shape.tile_rows[kFastList], shape.tile_rows[kGeneralList]);
  return static_cast<int>(num_seqs + int64_t{num_tokens} * group / rows);
}

void plan_decode(const PagedAttentionArgs& args, const int32_t* prefilled, const DecodeShape& shape,
                 const AttentionWorkspace::View& space, const PlanTuning& tuning, GpuStream stream, bool overlap) {
  const octavo_attention_config& config = args.config;
  PlanParams plan = {};
  plan.query_len = args.query_len;
  plan.seq_len = args.seq_len;
  plan.num_seqs = config.num_seqs;
  plan.num_tokens = config.num_tokens;
  plan.tile_tokens = shape.tile_tokens;
  plan.prefilled = prefilled;
  plan.num_kv_heads = args.shape.num_kv_heads;
  plan.step_tokens = shape.step_tokens;
  plan.sliding_window = config.sliding_window;
  plan.max_kv = max_kv(args);
  plan.num_ranges = shape.num_ranges;
  // Kernels of the older cards do not overlap.
  plan.few_ranges = gpu_device().compute_major >= 9 ? std::max(shape.num_ranges / 2, 1) : shape.num_ranges;
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

void set_common(const PagedAttentionArgs& args, AttentionParams& params) {
  const octavo_attention_config& config = args.config;
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
  params.group = group_of(args);
  params.sliding_window = config.sliding_window;
  params.softmax_scale = config.softmax_scale;
  params.logit_softcap = config.logit_softcap;
}

void attend_decode(const PagedAttentionArgs& args, int max_query_len, const AttentionWorkspace::View& space,
                   GpuStream stream, bool overlap) {
  DecodeParams params = {};
  set_common(args, params);
  params.is_rotated = kv_format(args.shape.kv_dtype).is_rotated;
  params.rows = space.rows;
  params.ranges = space.ranges;
  params.first_pages = space.first_pages;
  params.early = overlap && args.config.reuse_plan != 0 && args.early;
  params.slots = space.slots;
  run_decode(params, args.shape.kv_dtype, args.shape.head_dim, max_query_len, stream, overlap);
}

// The scratch of a call, cut into granules.
struct Scratch {
  uint8_t* memory;
  int32_t granules;  // of each kv head
};

Scratch find_scratch(const PagedAttentionArgs& args, const PrefillShape& shape, AttentionWorkspace& workspace) {
  if (!shape.has_fast || shape.fast_reads_pages) return {nullptr, 0};
  const int64_t keys = std::min(int64_t{args.config.num_seqs} * max_kv(args),
                                int64_t{args.shape.num_pages} * args.shape.page_size + 16 * args.config.num_seqs);
  uint8_t* memory = workspace.scratch(prefill_scratch_bytes(args.shape, keys));
  const int64_t granule_bytes = int64_t{shape.scratch_granule_bytes} * args.shape.num_kv_heads;
  return {memory, static_cast<int32_t>(std::min<int64_t>(workspace.scratch_bytes() / granule_bytes, INT32_MAX / 2))};
}

// New tokens from which a sequence's keys are converted.
int32_t shortest_scratch(const PagedAttentionArgs& args, const PrefillShape& shape) {
  return (shape.has_general ? kScratchRows : kScratchRowsOfDecode) / group_of(args);
}

// Whether all prompts surely run on the fast kernel.
bool all_fast(const PagedAttentionArgs& args, const Split& split, const PrefillShape& shape, const Scratch& scratch) {
  if (shape.fast_reads_pages || !shape.has_general) return true;
  return args.shortest_prompt > 0 && split.longest_decode == std::max(args.max_decode_len, 0) &&
         args.shortest_prompt >= shortest_scratch(args, shape) && args.prompt_granules <= scratch.granules;
}

void plan_prefill(const PagedAttentionArgs& args, const Split& split, const PrefillShape& shape, const Scratch& scratch,
                  const AttentionWorkspace::View& space, GpuStream stream, bool overlap) {
  const octavo_attention_config& config = args.config;
  PrefillPlanParams plan = {};
  plan.query_len = args.query_len;
  plan.seq_len = args.seq_len;
  plan.num_seqs = config.num_seqs;
  plan.num_tokens = config.num_tokens;
  plan.group = group_of(args);
  plan.longest_decode = split.longest_decode;
  plan.sliding_window = config.sliding_window;
  plan.max_kv = max_kv(args);
  for (int list = 0; list < kPrefillLists; ++list) {
    plan.tile_rows[list] = shape.tile_rows[list];
    plan.tiles[list] = space.tiles[list];
    plan.seq_tile[list] = space.prefill_sums[list];
  }
  plan.fast_reads_pages = shape.fast_reads_pages;
  plan.has_general = shape.has_general;
  plan.scratch_granules = scratch.granules;
  plan.shortest_scratch = shortest_scratch(args, shape);
  plan.max_tiles = space.max_tiles;
  plan.seq_token = space.prefill_sums[kPrefillLists];
  plan.seq_scratch = space.prefill_sums[kPrefillLists + 1];
  plan.prefilled = space.prefilled();
  plan.spans = space.spans;
  plan.num_tiles = space.prefill_counts;
  plan.num_spans = space.prefill_counts + kPrefillLists;
  make_prefill_plan(plan, stream, overlap);
}

void convert_keys(const PagedAttentionArgs& args, const PrefillShape& shape, const Scratch& scratch,
                  const AttentionWorkspace::View& space, GpuStream stream, bool overlap) {
  ScratchParams params = {};
  params.pages = args.pages;
  params.kv = kv_geometry(args.shape);
  params.num_pages = args.shape.num_pages;
  params.page_table = args.page_table;
  params.max_pages = args.config.max_pages_per_seq;
  params.spans = space.spans;
  params.num_spans = space.prefill_counts + kPrefillLists;
  params.scratch = scratch.memory;
  params.head_bytes = int64_t{scratch.granules} * shape.scratch_granule_bytes;
  params.head_dim = args.shape.head_dim;
  fill_scratch(params, args.shape.kv_dtype, shape.scratch_dim, stream, overlap);
}

void attend_prefill(const PagedAttentionArgs& args, const Split& split, const PrefillShape& shape,
                    const Scratch& scratch, const AttentionWorkspace::View& space, GpuStream stream, bool overlap) {
  PrefillParams params = {};
  set_common(args, params);
  params.head_dim = args.shape.head_dim;
  params.group_reciprocal = group_reciprocal(static_cast<uint32_t>(params.group));
  params.scratch = scratch.memory;
  params.scratch_head_bytes = int64_t{scratch.granules} * shape.scratch_granule_bytes;
  const bool uses_fast = shape.fast_reads_pages || scratch.granules > 0;
  const bool uses_general = !all_fast(args, split, shape, scratch);
  for (int list = 0; list < kPrefillLists; ++list) {
    if (list == kFastList ? !uses_fast : !uses_general) continue;
    params.tiles = space.tiles[list];
    params.num_tiles = space.prefill_counts + list;
    run_prefill(params, list, args.shape.kv_dtype, space.max_tiles, stream, overlap);
  }
}

}  // namespace

int64_t prefill_scratch_bytes(const octavo_kv_shape& shape, int64_t num_keys) {
  const PrefillShape prefill = prefill_shape(shape.kv_dtype, shape.head_dim);
  if (!prefill.has_fast || prefill.fast_reads_pages) return 0;
  return (num_keys + kGranuleTokens - 1) / kGranuleTokens * prefill.scratch_granule_bytes * shape.num_kv_heads;
}

void prepare_attention(const AttentionLimits& limits, AttentionWorkspace& workspace, GpuStream stream) {
  const octavo_kv_shape& kv = limits.shape;
  const int group = limits.num_q_heads / kv.num_kv_heads;
  const PrefillShape prefill = prefill_shape(kv.kv_dtype, kv.head_dim);
  const int max_tiles = count_prefill_tiles(limits.max_seqs, limits.max_tokens, group, prefill);
  for (int query_len = 1; query_len <= 32; query_len *= 2) {
    const DecodeShape decode = decode_shape(kv.kv_dtype, kv.head_dim, group, query_len);
    workspace.reserve({count_decode_rows(limits.max_seqs, limits.max_tokens, decode), limits.max_seqs, max_tiles, decode},
                      stream);
  }
}

void paged_attention(const PagedAttentionArgs& args, AttentionWorkspace& workspace, GpuStream stream, bool overlap,
                     const PlanTuning& tuning) {
  const octavo_attention_config& config = args.config;
  const Split split = split_batch(args);
  const int max_query_len = split.prefills ? std::max(split.longest_decode, 1) : args.max_query_len;
  const DecodeShape decode = decode_shape(args.shape.kv_dtype, args.shape.head_dim, group_of(args), max_query_len);
  AttentionWorkspace::Needs needs = {0, config.num_seqs, 0, decode};
  needs.max_rows = count_decode_rows(config.num_seqs, config.num_tokens, decode);
  PrefillShape prefill = {};
  Scratch scratch = {};
  if (split.prefills) {
    prefill = prefill_shape(args.shape.kv_dtype, args.shape.head_dim);
    needs.max_tiles = count_prefill_tiles(config.num_seqs, config.num_tokens, group_of(args), prefill);
    scratch = find_scratch(args, prefill, workspace);
  }
  const auto space = workspace.reserve(needs, stream);
  if (config.reuse_plan == 0) {
    if (split.prefills) plan_prefill(args, split, prefill, scratch, space, stream, overlap);
    if (split.decodes) {
      plan_decode(args, split.prefills ? space.prefilled() : nullptr, decode, space, tuning, stream, overlap);
    }
  }
  // Decode's kernel does not read what the conversion before it writes, and fetches old keys while that runs.
  if (scratch.granules > 0) convert_keys(args, prefill, scratch, space, stream, overlap);
  if (split.decodes) attend_decode(args, max_query_len, space, stream, overlap);
  if (split.prefills) attend_prefill(args, split, prefill, scratch, space, stream, overlap);
}

}  // namespace octavo
