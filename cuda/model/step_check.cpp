// The checks of a step's input. A step that passes them can neither read nor write outside its memory.
#include <algorithm>
#include <climits>

#include "arch/error.h"
#include "model/kv_dtypes.h"
#include "model/step_buffer.h"

namespace octavo {
namespace {

void check_header(const StepView& step, const octavo_engine_config& config) {
  const auto check = [](int32_t value, const char* name, int32_t lowest, int32_t highest) {
    if (value >= lowest && value <= highest) return;
    fail(OCTAVO_INVALID_ARGUMENT, "%s of the step must be %d to %d, found %d", name, lowest, highest, value);
  };
  check(step.num_seqs(), "num_seqs", 1, config.max_num_seqs);
  check(step.num_tokens(), "num_tokens", 1, config.max_num_batched_tokens);
  check(step.num_logit_edits(), "num_logit_edits", 0, config.max_logit_edits);
  check(step.num_token_masks(), "num_token_masks", 0, config.max_token_masks);
  check(step.num_scores(), "num_scores", 0, config.max_scores);
  check(step.header[5], "header word 5", 0, 1);
  check(step.header[6], "the first new mask", 0, step.header[5] == 0 ? 0 : step.num_token_masks());
  check(step.header[7], "the number of new masks", 0, step.header[5] == 0 ? 0 : step.num_token_masks() - step.header[6]);
  for (int32_t i = 8; i < 16; ++i) check(step.header[i], "a reserved header word", 0, 0);
}

void check_kv_indices(const StepView& step, const octavo_engine_config& config) {
  int32_t lowest = 0;
  for (int32_t s = 0; s < step.num_seqs(); ++s) {
    if (step.kv_index[s] < lowest || step.kv_index[s] >= num_kv_dtypes(config)) {
      fail(OCTAVO_INVALID_ARGUMENT, "kv_index of sequence %d must be %d to %d, found %d", s, lowest,
           num_kv_dtypes(config) - 1, step.kv_index[s]);
    }
    lowest = step.kv_index[s];
  }
}

void check_lengths(const StepView& step, const StepLimits& limits) {
  int64_t num_tokens = 0;
  for (int32_t s = 0; s < step.num_seqs(); ++s) {
    const int64_t page_capacity =
        int64_t{limits.config.max_pages_per_seq} * page_size_of(limits.config, step.kv_index[s]);
    const int32_t longest = static_cast<int32_t>(std::min<int64_t>(page_capacity, limits.max_model_len));
    if (step.query_len[s] < 1) {
      fail(OCTAVO_INVALID_ARGUMENT, "query_len of sequence %d must be at least 1, found %d", s, step.query_len[s]);
    }
    if (step.seq_len[s] < step.query_len[s] || step.seq_len[s] > longest) {
      fail(OCTAVO_INVALID_ARGUMENT, "seq_len of sequence %d must be its query_len %d to %d, found %d", s,
           step.query_len[s], longest, step.seq_len[s]);
    }
    num_tokens += step.query_len[s];
  }
  if (num_tokens != step.num_tokens()) {
    fail(OCTAVO_INVALID_ARGUMENT, "query_len must add up to num_tokens %d, found %lld", step.num_tokens(),
         static_cast<long long>(num_tokens));
  }
}

void check_tokens(const StepView& step, const StepLimits& limits) {
  for (int32_t t = 0; t < step.num_tokens(); ++t) {
    const int32_t token = step.tokens[t];
    if (token >= limits.vocab_size) {
      fail(OCTAVO_INVALID_ARGUMENT, "token %d must be 0 to %d, found %d", t, limits.vocab_size - 1, token);
    }
    if (token >= 0) continue;
    const int32_t row = -(token + 1);
    if (row < limits.last_num_rows) continue;
    fail(OCTAVO_INVALID_ARGUMENT, "token %d is %d, but the step before has %d rows", t, token, limits.last_num_rows);
  }
}

//   page table row   | p0 | p1 | p2 | p3 |         pages that hold positions seq_len - query_len .. seq_len - 1
//                          first ^    ^ last        are written, the others only read
void check_pages(const StepView& step, const octavo_engine_config& config, std::vector<int32_t>& page_writer) {
  for (int32_t s = 0; s < step.num_seqs(); ++s) {
    const int32_t* row = step.page_table + int64_t{s} * config.max_pages_per_seq;
    const int32_t page_size = page_size_of(config, step.kv_index[s]);
    const int32_t last = (step.seq_len[s] - 1) / page_size;
    const int32_t first_written = (step.seq_len[s] - step.query_len[s]) / page_size;
    for (int32_t i = 0; i <= last; ++i) {
      if (row[i] < 0 || row[i] >= config.num_pages) {
        fail(OCTAVO_INVALID_ARGUMENT, "page %d of sequence %d must be 0 to %d, found %d", i, s, config.num_pages - 1,
             row[i]);
      }
      if (i < first_written) continue;
      int32_t& writer = page_writer[static_cast<size_t>(row[i])];
      if (writer >= 0) {
        fail(OCTAVO_INVALID_ARGUMENT, "page %d of sequence %d is page %d, which sequence %d writes in the same step",
             i, s, row[i], writer);
      }
      writer = s;
    }
  }
}

// Resets the entries that check_pages may have set.
void clear_writers(const StepView& step, const octavo_engine_config& config, std::vector<int32_t>& page_writer) {
  for (int32_t s = 0; s < step.num_seqs(); ++s) {
    const int32_t* row = step.page_table + int64_t{s} * config.max_pages_per_seq;
    const int32_t page_size = page_size_of(config, step.kv_index[s]);
    const int32_t last = (step.seq_len[s] - 1) / page_size;
    for (int32_t i = (step.seq_len[s] - step.query_len[s]) / page_size; i <= last; ++i) {
      if (row[i] >= 0 && row[i] < config.num_pages) page_writer[static_cast<size_t>(row[i])] = -1;
    }
  }
}

void check_edit_ranges(const StepView& step) {
  int32_t begin = 0;
  for (int32_t s = 0; s <= step.num_seqs(); ++s) {
    if (step.edit_begin[s] < begin || step.edit_begin[s] > step.num_logit_edits()) {
      fail(OCTAVO_INVALID_ARGUMENT, "edit_begin %d must be %d to %d, found %d", s, begin, step.num_logit_edits(),
           step.edit_begin[s]);
    }
    begin = step.edit_begin[s];
  }
  if (step.edit_begin[0] != 0 || begin != step.num_logit_edits()) {
    fail(OCTAVO_INVALID_ARGUMENT, "edit_begin must run from 0 to num_logit_edits %d, found %d to %d",
         step.num_logit_edits(), step.edit_begin[0], begin);
  }
}

void check_sampling(const StepView& step, const StepLimits& limits) {
  int64_t num_rows = 0;
  for (int32_t s = 0; s < step.num_seqs(); ++s) {
    if (step.sample[s] < 0 || step.sample[s] > step.query_len[s]) {
      fail(OCTAVO_INVALID_ARGUMENT, "sample of sequence %d must be 0 to its query_len %d, found %d", s,
           step.query_len[s], step.sample[s]);
    }
    if (step.sample[s] == 0) continue;
    num_rows += step.sample[s];
    if (step.sample_index[s] > INT32_MAX - step.sample[s]) {
      fail(OCTAVO_INVALID_ARGUMENT, "sample_index of sequence %d must be at most %d, found %d", s,
           INT32_MAX - step.sample[s], step.sample_index[s]);
    }
    check_sampling_params(step.sampling_params(s), s);
    check_logit_edits(step.logit_edits(s), limits.vocab_size, s);
    if (step.num_logprobs[s] < -1 || step.num_logprobs[s] > limits.config.max_logprobs) {
      fail(OCTAVO_INVALID_ARGUMENT, "num_logprobs of sequence %d must be -1 to %d, found %d", s,
           limits.config.max_logprobs, step.num_logprobs[s]);
    }
  }
  if (num_rows > limits.config.max_samples) {
    fail(OCTAVO_INVALID_ARGUMENT, "sample must add up to %d at most, found %lld", limits.config.max_samples,
         static_cast<long long>(num_rows));
  }
}

void check_masks(const StepView& step) {
  if (step.num_token_masks() == 0) return;
  const int32_t num_rows = step.count_rows();
  for (int32_t row = 0; row < num_rows; ++row) {
    if (step.mask_index[row] >= -1 && step.mask_index[row] < step.num_token_masks()) continue;
    fail(OCTAVO_INVALID_ARGUMENT, "mask_index of row %d must be -1 to %d, found %d", row, step.num_token_masks() - 1,
         step.mask_index[row]);
  }
}

void check_scores(const StepView& step, const StepLimits& limits) {
  const auto check = [](int32_t value, const char* name, int32_t score, int32_t highest) {
    if (value >= 0 && value <= highest) return;
    fail(OCTAVO_INVALID_ARGUMENT, "%s of score %d must be 0 to %d, found %d", name, score, highest, value);
  };
  for (int32_t x = 0; x < step.num_scores(); ++x) {
    check(step.score_index[x], "score_index", x, step.num_tokens() - 1);
    check(step.score_token[x], "score_token", x, limits.vocab_size - 1);
    check(step.score_num_logprobs[x], "score_num_logprobs", x, limits.config.max_logprobs);
  }
}

}  // namespace

void check_step(const StepView& step, const StepLimits& limits, std::vector<int32_t>& page_writer) {
  check_header(step, limits.config);
  check_kv_indices(step, limits.config);
  check_lengths(step, limits);
  check_tokens(step, limits);
  check_edit_ranges(step);
  check_sampling(step, limits);
  check_masks(step);
  check_scores(step, limits);
  try {
    check_pages(step, limits.config, page_writer);
  } catch (...) {
    clear_writers(step, limits.config, page_writer);
    throw;
  }
  clear_writers(step, limits.config, page_writer);
}

void check_row(int32_t row, int32_t num_rows) {
  if (row >= 0 && row < num_rows) return;
  fail(OCTAVO_INVALID_ARGUMENT, "the last step has %d rows of logits, found row %d", num_rows, row);
}

}  // namespace octavo
