// The plan of one step's attention: who reads which granules. It depends on lengths and page ids only, so all layers
// with the same window share it.
#pragma once

#include <cstdint>

namespace octavo {

// Consecutive new tokens of one sequence whose queries share one pass over the keys. A work item is a row and a kv
// head: item = row * num_kv_heads + head.
struct PlanRow {
  int32_t seq;
  int32_t token_begin;  // first query token, index into the batch
  int32_t num_tokens;
  int32_t kv_begin;    // first key any of them sees
  int32_t kv_end;      // one past the last key any of them sees; query i is at position kv_end - num_tokens + i
  int32_t step_begin;  // the keys in tiles of step_tokens: [step_begin, step_end)
  int32_t step_end;
  int32_t old_end;  // keys before it were there before this step of the model
};

// What one block of the attention kernel does: steps of consecutive items. Ranges are equal cuts of all work.
//
//   items:   |---- a ----|-- b --|------- c -------|
//   ranges:  |  0   |   1   |   2   |   3   |
//
// An item cut by a range's edge is finished by the first of its ranges, which takes in what the others send.
struct PlanRange {
  int32_t item_begin;
  int32_t item_last;         // item_last < item_begin: nothing to do
  int32_t step_begin;        // of item_begin
  int32_t step_end;          // of item_last
  int32_t head_range;        // the first range that works on item_begin
  int32_t tail_range;        // the last range that works on item_last
  int32_t begin_tail_range;  // the last range that works on item_begin
  int32_t index;             // this range's number
  PlanRow row;  // of item_begin
};

// How a block of the attention kernel walks its range: its warps take steps in turn, stages steps ahead each.
struct BlockWalk {
  int32_t warps;
  int32_t stages;
  int32_t granules;  // of a step
  // Page ids that a block's first copies need: [stage][warp][granule].
  int32_t num_pages() const { return warps * stages * granules; }
};

struct PlanParams {
  const int32_t* query_len;  // [num_seqs], or nullptr: all are 1
  const int32_t* seq_len;    // [num_seqs]
  int32_t num_seqs;
  int32_t num_tokens;
  int32_t tile_tokens;  // query tokens of a row at most
  const int32_t* prefilled;  // [num_seqs] 1: prefill serves the sequence, it has no rows; nullptr: none is
  int32_t num_kv_heads;
  int32_t step_tokens;
  int32_t sliding_window;
  int32_t max_kv;      // max_pages_per_seq * page_size: lengths are cut to what the page table can name
  int32_t num_ranges;  // 1 .. kMaxRanges
  int32_t few_ranges;  // as many as short work is left to, at most num_ranges
  int32_t item_cost;   // fixed cost of an item, in steps
  int32_t min_range_steps;
  int32_t max_rows;
  PlanRow* rows;       // [max_rows]
  int64_t* row_cost;   // [max_rows + 1] prefix sums of cost
  int32_t* seq_row;    // [num_seqs + 1] prefix sums of rows
  int32_t* seq_token;  // [num_seqs + 1] prefix sums of query tokens
  PlanRange* ranges;   // [num_ranges] by block: from the last range that has work to the first
  BlockWalk walk;
  const int32_t* page_table;  // [num_seqs][max_pages]
  int32_t max_pages;
  int32_t page_shift;
  int32_t* first_pages;  // [num_ranges][walk.num_pages()]
};

constexpr int kMaxRanges = 1024;

}  // namespace octavo
