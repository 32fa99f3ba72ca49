// Prefill's plan as host and device code see it: which rows of which sequence a block takes.
#pragma once

#include <climits>
#include <cstdint>

#include "arch/host_device.h"

namespace octavo {

constexpr int32_t kNoScratch = INT32_MIN;
// With so many rows of a sequence converting its keys pays: against the general kernel, one of whose blocks walks all keys
// of a few rows by itself for longer than the rest of a step's attention takes, and, of formats it does not read, against
// decode's.
constexpr int32_t kScratchRows = 32;
constexpr int32_t kScratchRowsOfDecode = 128;

// row / group without a division, for rows below 2^26 and groups up to 64.
OCTAVO_HOST_DEVICE inline uint32_t group_reciprocal(uint32_t group) {
  return group == 1 ? 0 : static_cast<uint32_t>((uint64_t{1} << 32) / group) + 1;
}

OCTAVO_HOST_DEVICE inline int divide_row(int row, uint32_t reciprocal) {
  if (reciprocal == 0) return row;
  return static_cast<int>(static_cast<uint64_t>(row) * reciprocal >> 32);
}

// Consecutive rows of one sequence. A row is a new token and a q head of a group: row = token * group + head in group,
// so that the heads of a group share the keys' loads.
//
//   rows of a sequence:  | t0 h0 | t0 h1 | .. | t1 h0 | ..      group 4, tiles of 128 rows: 32 tokens
//   tiles:               |        0         |        1        | ..
struct PrefillTile {
  int32_t seq;
  int32_t token_begin;     // the sequence's first new token, index into the batch
  int32_t row_begin;
  int32_t num_rows;
  int32_t first_position;  // of the sequence's first new token; row r is at first_position + r / group
  int32_t kv_begin;        // first key any of the rows sees
  int32_t kv_end;          // one past the last key any of them sees; no more than kv_begin: none
  int32_t scratch;         // granule g of the sequence lies at granule scratch + g of the scratch; kNoScratch: in pages
};

// Keys of one sequence that are converted into the scratch.
struct ScratchSpan {
  int32_t seq;
  int32_t key_begin;      // valid keys; the granules of both ends are filled up with zeros
  int32_t key_end;
  int32_t granule_begin;  // where they lie in the scratch
  int32_t granule_end;
};

// Two lists of tiles: those that run on the fast kernel (0) and those on the general one (1). A sequence that neither
// can take is left to decode's kernel.
constexpr int kPrefillLists = 2;
constexpr int kFastList = 0;
constexpr int kGeneralList = 1;

struct PrefillPlanParams {
  const int32_t* query_len;  // [num_seqs]
  const int32_t* seq_len;    // [num_seqs]
  int32_t num_seqs;
  int32_t num_tokens;
  int32_t group;
  int32_t longest_decode;  // sequences with at most so many new tokens are left to decode's kernel too
  int32_t sliding_window;
  int32_t max_kv;  // lengths are cut to what the page table can name
  int32_t tile_rows[kPrefillLists];
  bool fast_reads_pages;     // the fast kernel needs no scratch
  bool has_general;          // the general kernel reads the format
  int32_t scratch_granules;  // room in the scratch, of one kv head
  int32_t shortest_scratch;  // new tokens from which converting a sequence's keys pays
  int32_t max_tiles;         // of both lists together
  int32_t* seq_token;        // [num_seqs + 1] prefix sums of query tokens
  int32_t* seq_scratch;      // [num_seqs + 1] prefix sums of granules wanted in the scratch
  int32_t* seq_tile[kPrefillLists];  // [num_seqs + 1] prefix sums of tiles
  int32_t* prefilled;                // [num_seqs] 1: the sequence has tiles
  ScratchSpan* spans;                // [num_seqs]
  int32_t* num_spans;
  PrefillTile* tiles[kPrefillLists];  // most keys first
  int32_t* num_tiles;                 // [kPrefillLists]
};

}  // namespace octavo
