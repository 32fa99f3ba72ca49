// The arithmetic of prefill's plan, for the plan kernel and for tests on the host.
#pragma once

#include "attn/plan_math.h"
#include "attn/prefill_types.h"

namespace octavo {

// New tokens of a sequence that are prefill's, cut to what q holds.
OCTAVO_HOST_DEVICE inline int prefill_tokens(const PrefillPlanParams& p, int seq) {
  const int query_len = p.query_len[seq];
  if (query_len <= p.longest_decode) return 0;
  return larger(smaller(query_len, p.num_tokens - p.seq_token[seq]), 0);
}

OCTAVO_HOST_DEVICE inline int first_new_position(const PrefillPlanParams& p, int seq) {
  return smaller(p.seq_len[seq], p.max_kv) - p.query_len[seq];
}

// The first key that the query at a position sees.
OCTAVO_HOST_DEVICE inline int oldest_key(int position, int sliding_window) {
  return sliding_window > 0 ? larger(position - sliding_window + 1, 0) : 0;
}

// Keys that a sequence's new tokens see, in whole granules, if they are to be converted; else 0.
OCTAVO_HOST_DEVICE inline int scratch_need(const PrefillPlanParams& p, int seq) {
  const int tokens = prefill_tokens(p, seq);
  if (p.scratch_granules == 0 || tokens < larger(p.shortest_scratch, 1)) return 0;
  const int first = first_new_position(p, seq);
  const int begin = oldest_key(first, p.sliding_window) / kGranuleTokens;
  return larger((first + tokens + kGranuleTokens - 1) / kGranuleTokens - begin, 0);
}

// Whether a sequence's keys have their place in the scratch, from the prefix sums of the need.
OCTAVO_HOST_DEVICE inline bool has_scratch(const PrefillPlanParams& p, int seq) {
  const int need = p.seq_scratch[seq + 1] - p.seq_scratch[seq];
  return need > 0 && p.seq_scratch[seq + 1] <= p.scratch_granules;
}

OCTAVO_HOST_DEVICE inline int find_list(const PrefillPlanParams& p, int seq) {
  return p.fast_reads_pages || has_scratch(p, seq) ? kFastList : kGeneralList;
}

OCTAVO_HOST_DEVICE inline int count_tiles(const PrefillPlanParams& p, int seq, int list) {
  if (find_list(p, seq) != list || (list == kGeneralList && !p.has_general)) return 0;
  return static_cast<int>((static_cast<int64_t>(prefill_tokens(p, seq)) * p.group + p.tile_rows[list] - 1) /
                          p.tile_rows[list]);
}

OCTAVO_HOST_DEVICE inline ScratchSpan make_span(const PrefillPlanParams& p, int seq) {
  const int first = first_new_position(p, seq);
  return {seq, oldest_key(first, p.sliding_window), first + prefill_tokens(p, seq), p.seq_scratch[seq],
          p.seq_scratch[seq + 1]};
}

OCTAVO_HOST_DEVICE inline PrefillTile make_tile(const PrefillPlanParams& p, int list, int seq, int number) {
  const int rows = prefill_tokens(p, seq) * p.group;
  PrefillTile tile = {};
  tile.seq = seq;
  tile.token_begin = p.seq_token[seq];
  tile.row_begin = number * p.tile_rows[list];
  tile.num_rows = smaller(p.tile_rows[list], rows - tile.row_begin);
  tile.first_position = first_new_position(p, seq);
  const int first_token = tile.row_begin / p.group;
  const int last_token = (tile.row_begin + tile.num_rows - 1) / p.group;
  tile.kv_begin = oldest_key(tile.first_position + first_token, p.sliding_window);
  tile.kv_end = tile.first_position + last_token + 1;
  tile.scratch = kNoScratch;
  if (list == kFastList && !p.fast_reads_pages) {
    tile.scratch = p.seq_scratch[seq] - oldest_key(tile.first_position, p.sliding_window) / kGranuleTokens;
  }
  return tile;
}

// Tiles with more keys come first: the last ones to start are short. Classes of 128 keys.
constexpr int kCostClasses = 1024;

OCTAVO_HOST_DEVICE inline int cost_class(const PrefillTile& tile) {
  const int cost = larger(tile.kv_end - tile.kv_begin, 0) / 128;
  return kCostClasses - 1 - smaller(cost, kCostClasses - 1);
}

}  // namespace octavo
