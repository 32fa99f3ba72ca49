// Where the tables of the step buffer lie, and its views; shared by all builds.
#include <algorithm>
#include <climits>
#include <numeric>

#include "arch/error.h"
#include "kv/checks.h"
#include "model/checked_size.h"
#include "model/kv_dtypes.h"
#include "model/step_buffer.h"

namespace octavo {
namespace {

void check_field(int32_t value, const char* name, int32_t lowest, int32_t highest) {
  if (value >= lowest && value <= highest) return;
  fail(OCTAVO_INVALID_ARGUMENT, "%s must be %d to %d, found %d", name, lowest, highest, value);
}

// Places tables one after another, each on a multiple of 64 bytes.
class LayoutBuilder {
 public:
  void place(int32_t* offset, uint64_t count, uint64_t columns = 1) {
    *offset = static_cast<int32_t>(end_);
    end_ += (checked_product("a step buffer", {count, columns, 4}) + 63) / 64 * 64;
    if (end_ > INT32_MAX) {
      fail(OCTAVO_INVALID_ARGUMENT, "the step buffer would need %llu bytes or more, at most %d are possible",
           static_cast<unsigned long long>(end_), INT32_MAX);
    }
  }
  double total_bytes() const { return static_cast<double>(end_); }

 private:
  uint64_t end_ = 0;
};

// Decodes have one new token each, and a few more where tokens are guessed; ends of prompts may be as short.
constexpr int32_t kFewTokens = 8;

void add_to_group(int32_t query_len, int32_t seq_len, KvGroup& group) {
  group.num_seqs += 1;
  group.num_tokens += query_len;
  group.max_query_len = std::max(group.max_query_len, query_len);
  if (query_len <= kFewTokens) {
    group.max_decode_len = std::max(group.max_decode_len, query_len);
    return;
  }
  group.shortest_prompt = group.shortest_prompt == 0 ? query_len : std::min(group.shortest_prompt, query_len);
  group.prompt_granules += seq_len / 16 + 2;
}

}  // namespace

void check_engine_config(const octavo_engine_config& config) {
  check_field(config.num_more_kv_dtypes, "num_more_kv_dtypes", 0, OCTAVO_MAX_KV_DTYPES - 1);
  for (int32_t kv = 0; kv < num_kv_dtypes(config); ++kv) {
    check_field(kv_dtype_of(config, kv), "kv_dtype", OCTAVO_KV_FLOAT32, OCTAVO_KV_INT4);
    const int32_t page_size = page_size_of(config, kv);
    if (page_size != 16 && page_size != 32 && page_size != 64) {
      fail(OCTAVO_INVALID_ARGUMENT, "page_size must be 16, 32 or 64, found %d", page_size);
    }
    // Slots, page * page_size + offset, are int32.
    check_field(config.num_pages, "num_pages", 1, INT32_MAX / page_size);
  }
  check_field(config.max_num_seqs, "max_num_seqs", 1, 1 << 20);
  check_field(config.max_num_batched_tokens, "max_num_batched_tokens", 1, 1 << 24);
  check_field(config.max_samples, "max_samples", 1, 1 << 24);
  check_field(config.max_pages_per_seq, "max_pages_per_seq", 1, INT32_MAX / config.page_size);
  check_field(config.max_logprobs, "max_logprobs", 0, 64);
  check_field(config.max_logit_edits, "max_logit_edits", 0, 1 << 28);
  check_field(config.max_token_masks, "max_token_masks", 0, 1 << 20);
  check_field(config.token_mask_words, "token_mask_words", config.max_token_masks > 0 ? 1 : 0,
              config.max_token_masks > 0 ? 1 << 19 : 0);
  check_field(config.max_scores, "max_scores", 0, config.max_num_batched_tokens);
  check_field(config.num_threads, "num_threads", 0, 1024);
  check_field(config.calculate_kv_scales, "calculate_kv_scales", 0, 1);
  check_field(config.kv_stats, "kv_stats", OCTAVO_KV_STATS_OFF, OCTAVO_KV_STATS_HISTOGRAMS);
  check_field(config.num_host_pages, "num_host_pages", 0, INT32_MAX);
}

void check_mask_words(const octavo_engine_config& config, int32_t vocab_size) {
  if (config.max_token_masks == 0) return;
  const int32_t words = vocab_size / 32 + (vocab_size % 32 != 0);
  check_field(config.token_mask_words, "token_mask_words", words, words);
}

octavo_step_layout make_step_layout(const octavo_engine_config& config) {
  check_engine_config(config);
  const uint64_t seqs = static_cast<uint64_t>(config.max_num_seqs);
  const uint64_t rows = static_cast<uint64_t>(config.max_samples);
  const uint64_t edits = static_cast<uint64_t>(config.max_logit_edits);
  const uint64_t logprobs = static_cast<uint64_t>(config.max_logprobs);
  octavo_step_layout layout = {};
  LayoutBuilder builder;
  builder.place(&layout.header, 16);
  builder.place(&layout.tokens, static_cast<uint64_t>(config.max_num_batched_tokens));
  builder.place(&layout.query_len, seqs);
  builder.place(&layout.seq_len, seqs);
  builder.place(&layout.page_table, seqs, static_cast<uint64_t>(config.max_pages_per_seq));
  builder.place(&layout.sample, seqs);
  builder.place(&layout.temperature, seqs);
  builder.place(&layout.top_k, seqs);
  builder.place(&layout.top_p, seqs);
  builder.place(&layout.min_p, seqs);
  builder.place(&layout.repetition_penalty, seqs);
  builder.place(&layout.presence_penalty, seqs);
  builder.place(&layout.frequency_penalty, seqs);
  builder.place(&layout.seed, seqs, 2);
  builder.place(&layout.sample_index, seqs);
  builder.place(&layout.num_logprobs, seqs);
  builder.place(&layout.edit_begin, seqs + 1);
  builder.place(&layout.edit_token, edits);
  builder.place(&layout.edit_count, edits);
  builder.place(&layout.edit_flags, edits);
  builder.place(&layout.edit_bias, edits);
  builder.place(&layout.mask_index, rows);
  builder.place(&layout.token_masks, static_cast<uint64_t>(config.max_token_masks),
                static_cast<uint64_t>(config.token_mask_words));
  const uint64_t scores = static_cast<uint64_t>(config.max_scores);
  builder.place(&layout.score_index, scores);
  builder.place(&layout.score_token, scores);
  builder.place(&layout.score_num_logprobs, scores);
  builder.place(&layout.kv_index, seqs);
  builder.place(&layout.sampled, rows);
  builder.place(&layout.sampled_logprob, rows);
  builder.place(&layout.top_token, rows, logprobs);
  builder.place(&layout.top_logprob, rows, logprobs);
  builder.place(&layout.score_logprob, scores);
  builder.place(&layout.score_rank, scores);
  builder.place(&layout.score_top_token, scores, logprobs);
  builder.place(&layout.score_top_logprob, scores, logprobs);
  layout.total_bytes = builder.total_bytes();
  return layout;
}

void check_step_buffer(const octavo_step_layout& layout, const uint8_t* step_buffer, double size_bytes) {
  if (size_bytes != layout.total_bytes) {
    fail(OCTAVO_INVALID_ARGUMENT, "the step buffer must have %.0f bytes, found %g", layout.total_bytes, size_bytes);
  }
  if (reinterpret_cast<uintptr_t>(step_buffer) % 8 != 0) {
    fail(OCTAVO_INVALID_ARGUMENT, "the step buffer must be aligned to 8 bytes, found address %p",
         static_cast<const void*>(step_buffer));
  }
}

StepView view_step_buffer(const octavo_step_layout& layout, uint8_t* step_buffer) {
  const auto ints = [&](int32_t offset) { return reinterpret_cast<int32_t*>(step_buffer + offset); };
  const auto floats = [&](int32_t offset) { return reinterpret_cast<float*>(step_buffer + offset); };
  StepView view;
  view.header = ints(layout.header);
  view.tokens = ints(layout.tokens);
  view.query_len = ints(layout.query_len);
  view.seq_len = ints(layout.seq_len);
  view.page_table = ints(layout.page_table);
  view.sample = ints(layout.sample);
  view.temperature = floats(layout.temperature);
  view.top_k = ints(layout.top_k);
  view.top_p = floats(layout.top_p);
  view.min_p = floats(layout.min_p);
  view.repetition_penalty = floats(layout.repetition_penalty);
  view.presence_penalty = floats(layout.presence_penalty);
  view.frequency_penalty = floats(layout.frequency_penalty);
  view.seed = reinterpret_cast<const uint32_t*>(step_buffer + layout.seed);
  view.sample_index = ints(layout.sample_index);
  view.num_logprobs = ints(layout.num_logprobs);
  view.edit_begin = ints(layout.edit_begin);
  view.edit_token = ints(layout.edit_token);
  view.edit_count = ints(layout.edit_count);
  view.edit_flags = ints(layout.edit_flags);
  view.edit_bias = floats(layout.edit_bias);
  view.mask_index = ints(layout.mask_index);
  view.token_masks = reinterpret_cast<const uint32_t*>(step_buffer + layout.token_masks);
  view.score_index = ints(layout.score_index);
  view.score_token = ints(layout.score_token);
  view.score_num_logprobs = ints(layout.score_num_logprobs);
  view.kv_index = ints(layout.kv_index);
  view.sampled = ints(layout.sampled);
  view.sampled_logprob = floats(layout.sampled_logprob);
  view.top_token = ints(layout.top_token);
  view.top_logprob = floats(layout.top_logprob);
  view.score_logprob = floats(layout.score_logprob);
  view.score_rank = ints(layout.score_rank);
  view.score_top_token = ints(layout.score_top_token);
  view.score_top_logprob = floats(layout.score_top_logprob);
  return view;
}

KvGroups list_kv_groups(const StepView& step) {
  KvGroups groups;
  int32_t first_token = 0;
  for (int32_t s = 0; s < step.num_seqs(); ++s) {
    if (s == 0 || step.kv_index[s] != step.kv_index[s - 1]) {
      groups.group[groups.count++] = {step.kv_index[s], s, 0, first_token, 0, 0, 0, 0, 0};
    }
    KvGroup& group = groups.group[groups.count - 1];
    add_to_group(step.query_len[s], step.seq_len[s], group);
    first_token += step.query_len[s];
  }
  return groups;
}

int32_t StepView::count_rows() const { return std::accumulate(sample, sample + num_seqs(), 0); }

SamplingParams StepView::sampling_params(int32_t s) const {
  return {temperature[s],       top_p[s],
          min_p[s],             repetition_penalty[s],
          presence_penalty[s],  frequency_penalty[s],
          top_k[s],             sample_index[s],
          seed[int64_t{s} * 2], seed[int64_t{s} * 2 + 1]};
}

LogitEdits StepView::logit_edits(int32_t s) const {
  const int32_t begin = edit_begin[s];
  return {edit_token + begin, edit_count + begin, edit_flags + begin, edit_bias + begin, edit_begin[s + 1] - begin};
}

const uint32_t* StepView::token_mask(int32_t row, int32_t words) const {
  return num_token_masks() == 0 || mask_index[row] < 0 ? nullptr : token_masks + int64_t{mask_index[row]} * words;
}

}  // namespace octavo

extern "C" int32_t octavo_step_layout_get(const octavo_engine_config* config, octavo_step_layout* layout) {
  return octavo::guard([&] {
    octavo::check_not_null("config", config);
    octavo::check_not_null("layout", layout);
    *layout = octavo::make_step_layout(*config);
  });
}
