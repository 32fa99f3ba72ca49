#include "model/pack_step.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "model/kv_dtypes.h"

namespace octavo {
namespace {

constexpr int32_t kHeaderWords = sizeof(PackedStep) / sizeof(int32_t);

//   | PackedStep | tokens | query_begin | row_begin | seq_len | page_shift | page table | header | ... | edit_bias |
class Packer {
 public:
  explicit Packer(void* target) : step_(static_cast<PackedStep*>(target)), words_(static_cast<int32_t*>(target)) {
    step_->num_runs = 0;
  }

  PackedStep& step() { return *step_; }
  int64_t size_bytes() const { return int64_t{end_} * 4; }

  // Room for count words; returns their place.
  int32_t take(int32_t count) {
    const int32_t place = end_;
    end_ += count;
    return place;
  }

  int32_t* at(int32_t place) { return words_ + place; }

  int32_t copy(const void* source, int32_t count) {
    const int32_t place = take(count);
    std::memcpy(words_ + place, source, size_t{4} * static_cast<size_t>(count));
    return place;
  }

  // A table that goes to the byte offset of the device's step buffer as it is.
  void add_run(const void* source, int32_t count, int32_t offset_bytes) {
    if (count == 0) return;
    step_->runs[step_->num_runs++] = {copy(source, count), offset_bytes / 4, count};
  }

 private:
  PackedStep* step_;
  int32_t* words_;
  int32_t end_ = kHeaderWords;
};

int32_t count_pages(const StepView& step, const octavo_engine_config& config, int32_t s) {
  return (step.seq_len[s] - 1) / page_size_of(config, step.kv_index[s]) + 1;
}

// The most pages of a sequence.
int32_t count_page_columns(const StepView& step, const octavo_engine_config& config) {
  int32_t most = 0;
  for (int32_t s = 0; s < step.num_seqs(); ++s) most = std::max(most, count_pages(step, config, s));
  return most;
}

// Where each of count parts begins, and the last one ends.
int32_t pack_begins(const int32_t* lengths, int32_t count, Packer& packer) {
  const int32_t place = packer.take(count + 1);
  int32_t* begin = packer.at(place);
  begin[0] = 0;
  std::partial_sum(lengths, lengths + count, begin + 1);
  return place;
}

void pack_lengths(const StepView& step, const octavo_engine_config& config, Packer& packer) {
  packer.step().query_begin = pack_begins(step.query_len, step.num_seqs(), packer);
  packer.step().row_begin = pack_begins(step.sample, step.num_seqs(), packer);
  packer.step().num_rows = packer.at(packer.step().row_begin)[step.num_seqs()];
  packer.step().seq_len = packer.copy(step.seq_len, step.num_seqs());
  packer.step().page_shift = packer.take(step.num_seqs());
  int32_t* page_shift = packer.at(packer.step().page_shift);
  for (int32_t s = 0; s < step.num_seqs(); ++s) {
    const int32_t page_size = page_size_of(config, step.kv_index[s]);
    page_shift[s] = page_size == 16 ? 4 : page_size == 32 ? 5 : 6;
  }
}

void pack_page_table(const StepView& step, const octavo_engine_config& config, Packer& packer) {
  const int32_t columns = count_page_columns(step, config);
  packer.step().page_columns = columns;
  packer.step().page_table = packer.take(step.num_seqs() * columns);
  int32_t* target = packer.at(packer.step().page_table);
  for (int32_t s = 0; s < step.num_seqs(); ++s) {
    const int32_t* row = step.page_table + int64_t{s} * config.max_pages_per_seq;
    // What lies behind a sequence's own pages may be anything.
    const int32_t own = count_pages(step, config, s);
    std::copy_n(row, own, target);
    std::fill(target + own, target + columns, 0);
    target += columns;
  }
}

void pack_sampling(const StepView& step, const octavo_step_layout& layout, Packer& packer) {
  const int32_t num_seqs = step.num_seqs();
  packer.add_run(step.header, 16, layout.header);
  packer.add_run(step.temperature, num_seqs, layout.temperature);
  packer.add_run(step.top_k, num_seqs, layout.top_k);
  packer.add_run(step.top_p, num_seqs, layout.top_p);
  packer.add_run(step.min_p, num_seqs, layout.min_p);
  packer.add_run(step.repetition_penalty, num_seqs, layout.repetition_penalty);
  packer.add_run(step.presence_penalty, num_seqs, layout.presence_penalty);
  packer.add_run(step.frequency_penalty, num_seqs, layout.frequency_penalty);
  packer.add_run(step.seed, 2 * num_seqs, layout.seed);
  packer.add_run(step.sample_index, num_seqs, layout.sample_index);
  packer.add_run(step.num_logprobs, num_seqs, layout.num_logprobs);
  packer.add_run(step.edit_begin, num_seqs + 1, layout.edit_begin);
  packer.add_run(step.edit_token, step.num_logit_edits(), layout.edit_token);
  packer.add_run(step.edit_count, step.num_logit_edits(), layout.edit_count);
  packer.add_run(step.edit_flags, step.num_logit_edits(), layout.edit_flags);
  packer.add_run(step.edit_bias, step.num_logit_edits(), layout.edit_bias);
}

// The device keeps the masks of earlier steps in their places.
void pack_masks(const StepView& step, const octavo_engine_config& config, const octavo_step_layout& layout,
                Packer& packer) {
  if (step.num_token_masks() == 0) return;
  packer.add_run(step.mask_index, packer.step().num_rows, layout.mask_index);
  const int32_t first_word = step.first_new_mask() * config.token_mask_words;
  packer.add_run(step.token_masks + first_word, step.num_new_masks() * config.token_mask_words,
                 layout.token_masks + 4 * first_word);
}

void pack_scores(const StepView& step, const octavo_step_layout& layout, Packer& packer) {
  packer.add_run(step.score_index, step.num_scores(), layout.score_index);
  packer.add_run(step.score_token, step.num_scores(), layout.score_token);
  packer.add_run(step.score_num_logprobs, step.num_scores(), layout.score_num_logprobs);
}

}  // namespace

int64_t max_packed_bytes(const octavo_engine_config& config, const octavo_step_layout& layout) {
  return int64_t{sizeof(PackedStep)} + layout.sampled + 8 * (int64_t{config.max_num_seqs} + 1);
}

int64_t pack_step(const StepView& step, const octavo_engine_config& config, const octavo_step_layout& layout,
                  void* target) {
  Packer packer(target);
  packer.step().num_seqs = step.num_seqs();
  packer.step().num_tokens = step.num_tokens();
  packer.step().tokens = packer.copy(step.tokens, step.num_tokens());
  pack_lengths(step, config, packer);
  pack_page_table(step, config, packer);
  pack_sampling(step, layout, packer);
  pack_masks(step, config, layout, packer);
  pack_scores(step, layout, packer);
  return packer.size_bytes();
}

}  // namespace octavo
