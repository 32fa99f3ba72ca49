// The plan's arithmetic, for the plan kernel and for tests on the host.
#pragma once

#include <cstdint>

#include "attn/plan_types.h"
#include "kv/granule_address.h"

namespace octavo {

template <class T>
OCTAVO_HOST_DEVICE constexpr T smaller(T a, T b) {
  return a < b ? a : b;
}

template <class T>
OCTAVO_HOST_DEVICE constexpr T larger(T a, T b) {
  return a > b ? a : b;
}

// A point in the flattened stream of work.
struct Cut {
  int32_t item;
  int32_t step;
};

// The largest i in [0, count) with sums[i] <= target.
template <class T>
OCTAVO_HOST_DEVICE int find_last(const T* sums, int count, int64_t target) {
  int low = 0;
  int high = count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (sums[middle] <= target)
      low = middle;
    else
      high = middle;
  }
  return low;
}

OCTAVO_HOST_DEVICE inline int count_rows(const PlanParams& p, int seq) {
  const int query_len = p.query_len == nullptr ? 1 : p.query_len[seq];
  return p.prefilled != nullptr && p.prefilled[seq] != 0 ? 0 : (query_len + p.tile_tokens - 1) / p.tile_tokens;
}

OCTAVO_HOST_DEVICE inline PlanRow make_row(const PlanParams& p, int seq, int tile) {
  const int query_len = p.query_len == nullptr ? 1 : p.query_len[seq];
  const int seq_len = smaller(p.seq_len[seq], p.max_kv);
  const int first = tile * p.tile_tokens;
  PlanRow row = {};
  row.seq = seq;
  row.token_begin = (p.query_len == nullptr ? seq : p.seq_token[seq]) + first;
  // Lengths that disagree with num_tokens are cut, so that nothing outside q and out is touched.
  row.num_tokens = larger(smaller(smaller(p.tile_tokens, query_len - first), p.num_tokens - row.token_begin), 0);
  row.kv_end = larger(seq_len - query_len + first + row.num_tokens, 0);
  const int first_position = row.kv_end - row.num_tokens;
  row.kv_begin = p.sliding_window > 0 ? larger(first_position - p.sliding_window + 1, 0) : 0;
  row.step_begin = row.kv_begin / p.step_tokens;
  row.step_end = larger((row.kv_end + p.step_tokens - 1) / p.step_tokens, row.step_begin);
  row.old_end = seq_len - query_len;
  return row;
}

OCTAVO_HOST_DEVICE inline int64_t item_cost(const PlanParams& p, const PlanRow& row) {
  return row.step_end - row.step_begin + p.item_cost;
}

// Where the work of cost `target` lies. The fixed cost stands at an item's front: a cut inside it falls on the front.
OCTAVO_HOST_DEVICE inline Cut find_cut(const PlanParams& p, int num_rows, int64_t target) {
  if (target >= p.row_cost[num_rows]) return {num_rows * p.num_kv_heads, 0};
  const int r = find_last(p.row_cost, num_rows, target);
  const PlanRow row = p.rows[r];
  const int64_t cost = item_cost(p, row);
  const int64_t inside = target - p.row_cost[r];
  const int64_t offset = inside % cost - p.item_cost;
  return {static_cast<int32_t>(r * p.num_kv_heads + inside / cost),
          row.step_begin + static_cast<int32_t>(offset > 0 ? offset : 0)};
}

// Whether few blocks do the work as fast as all: each of their warps has one step, or each block one item that its ring
// holds. The next kernel's blocks then find room beside them and begin early.
OCTAVO_HOST_DEVICE inline bool is_short(const PlanParams& p, int num_items, int64_t steps) {
  if (num_items > p.few_ranges) return false;
  const int64_t ring = static_cast<int64_t>(p.walk.warps) * p.walk.stages;
  return steps <= static_cast<int64_t>(p.few_ranges) * p.walk.warps ||
         (2 * num_items > p.few_ranges && steps <= num_items * ring);
}

// How many ranges share the work: few for little work, and a whole number an item where that loses little.
OCTAVO_HOST_DEVICE inline int count_ranges(const PlanParams& p, int num_items, int64_t steps) {
  const int most = is_short(p, num_items, steps) ? p.few_ranges : p.num_ranges;
  const int64_t wanted = larger(steps / p.min_range_steps, static_cast<int64_t>(1));
  const int limit = static_cast<int>(smaller(wanted, static_cast<int64_t>(most)));
  if (num_items > limit || num_items == 0) return limit;
  const int whole = limit / num_items * num_items;
  return whole * 16 >= limit * 15 ? whole : limit;
}

// Range number c of `used`, from the cuts [used + 1] of the work of num_items items.
OCTAVO_HOST_DEVICE inline PlanRange make_range(const PlanParams& p, const Cut* cuts, int c, int used, int num_items) {
  const Cut begin = cuts[c];
  Cut end = cuts[c + 1];
  PlanRange range = {};
  range.item_begin = begin.item;
  range.item_last = begin.item - 1;
  range.step_begin = begin.step;
  range.index = c;
  if (begin.item >= num_items || (end.item == begin.item && end.step == begin.step)) return range;
  if (end.item == num_items || end.step == p.rows[end.item / p.num_kv_heads].step_begin) {
    --end.item;
    end.step = p.rows[end.item / p.num_kv_heads].step_end;
  }
  range.item_last = end.item;
  range.step_end = end.step;
  range.row = p.rows[begin.item / p.num_kv_heads];
  range.head_range = c;
  while (cuts[range.head_range].item == begin.item && cuts[range.head_range].step > range.row.step_begin) {
    --range.head_range;
  }
  const auto last_range_of = [&](int item) {
    int last = c;
    while (last + 1 < used && cuts[last + 1].item == item) ++last;
    return last;
  };
  range.begin_tail_range = last_range_of(begin.item);
  range.tail_range = last_range_of(end.item);
  return range;
}

// The page id that a block's warp needs for granule `granule` of its step number index, 0 where there is none.
OCTAVO_HOST_DEVICE inline int32_t find_first_page(const PlanParams& p, const PlanRange& range, int index, int granule) {
  int item = range.item_begin;
  int step = range.step_begin + index;
  while (item <= range.item_last) {
    const PlanRow row = p.rows[item / p.num_kv_heads];
    const int end = item == range.item_last ? range.step_end : row.step_end;
    if (step < end) {
      const int key = step * p.step_tokens + granule * 16;
      if (key >= row.kv_end || key + 16 <= row.kv_begin) return 0;
      return p.page_table[static_cast<int64_t>(row.seq) * p.max_pages + (key >> p.page_shift)];
    }
    if (++item > range.item_last) break;
    step = p.rows[item / p.num_kv_heads].step_begin + step - end;
  }
  return 0;
}

}  // namespace octavo
