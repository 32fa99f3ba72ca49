// A step's input on its way to the device.
#pragma once

#include <cstdint>

namespace octavo {

// A run of words that is copied as it is.
struct PackedRun {
  int32_t source;  // words from the start of the packed step
  int32_t target;  // words from the start of the step buffer
  int32_t count;
};

// This header, then the words it tells of and nothing else, so that one copy of what the step needs brings it over: a step
// buffer's tables are as long as the largest step, its page table many megabytes. Places are words from the start.
struct PackedStep {
  static constexpr int32_t kMaxRuns = 24;

  int32_t num_seqs;
  int32_t num_tokens;
  int32_t num_rows;
  int32_t page_columns;  // columns of page_table that are sent
  int32_t tokens;        // [num_tokens]
  int32_t query_begin;   // [num_seqs + 1] first token of each sequence
  int32_t row_begin;     // [num_seqs + 1] first row of each sequence
  int32_t seq_len;       // [num_seqs]
  int32_t page_shift;    // [num_seqs] log2 of the tokens of its pages
  int32_t page_table;    // [num_seqs][page_columns]
  int32_t num_runs;
  PackedRun runs[kMaxRuns];
};

}  // namespace octavo
