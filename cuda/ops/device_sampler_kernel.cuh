// How the blocks of a row sample its token, or score one that is given. The code runs on the device and, with an emulated block, in tests on the host.
//
//   token      0 ................. part_size ................ 2 part_size ........ vocab_size
//              | block 0's part    | block 1's part           | block 2's part    |
//   in a part  | warp 0's range | warp 1's | ...              kept in shared memory, edited
//
// What may be drawn is a beginning of the order of likelihood, given by its end, a Cut. A cut is found from histograms of
// ever narrower ranges of logits that hold it, summed over the blocks; then the kept weights are summed by token, and the
// block whose tokens reach the drawn number names the token.
#pragma once

#include <climits>
#include <cstdint>

#include "ops/philox.h"
#include "ops/sample_math.h"
#include "ops/step_row.h"

namespace octavo {

constexpr int kMaxTopTokens = 64;
constexpr int kSlotWords = kBins + kBins / 2;  // a histogram: kBins weights of 8 bytes, kBins counts of 4

struct SampleKernelParams {
  const float* logits;    // [rows][logits_stride]
  int64_t logits_stride;
  int32_t vocab_size;
  int32_t part_size;      // tokens of a block; a multiple of 128
  int32_t blocks_per_row;
  int32_t max_logprobs;
  uint64_t* slots;        // [rows][2][blocks_per_row][kSlotWords]
  uint32_t* arrivals;     // [rows]
  int32_t clusters;       // 1: the blocks of a row are a cluster

  // nullptr when all rows are draws of one row of logits.
  const StepRow* rows;
  // Columns of the step buffer, by sequence.
  const float* temperature;
  const int32_t* top_k;
  const float* top_p;
  const float* min_p;
  const float* repetition_penalty;
  const float* presence_penalty;
  const float* frequency_penalty;
  const uint32_t* seed;
  const int32_t* sample_index;
  const int32_t* num_logprobs;
  const int32_t* edit_begin;
  LogitEdits edits;       // of all sequences; num only for draws
  const int32_t* num_masks;   // of the step; nullptr for draws and scores
  const int32_t* mask_index;  // [rows], read where there are masks
  const uint32_t* masks;      // [num_masks][mask_words]
  int32_t mask_words;
  const int32_t* score_token;  // [rows] the token to score; rows are scores then, and num_logprobs is by row
  SamplingParams draws;   // of all rows, when they are draws; sample_index of the first

  int32_t* sampled;       // [rows]
  float* sampled_logprob; // [rows], or nullptr for draws
  int32_t* top_token;     // [rows][max_logprobs]
  float* top_logprob;
  int32_t* score_rank;    // [rows], and sampled_logprob is the scored token's
};

// What one row asks for.
struct SampleRow {
  SamplingParams params;
  LogitEdits edits;
  int32_t num_logprobs;
};

__device__ inline SampleRow read_row(const SampleKernelParams& p, int32_t row) {
  if (p.rows == nullptr) {
    SampleRow draw = {p.draws, p.edits, p.sampled_logprob != nullptr ? 0 : -1};
    draw.params.sample_index += row;
    return draw;
  }
  const int32_t s = p.rows[row].seq_index;
  const int32_t begin = p.edit_begin[s];
  return {{p.temperature[s], p.top_p[s], p.min_p[s], p.repetition_penalty[s], p.presence_penalty[s],
           p.frequency_penalty[s], p.top_k[s], p.sample_index[s] + p.rows[row].index, p.seed[2 * s], p.seed[2 * s + 1]},
          {p.edits.token + begin, p.edits.count + begin, p.edits.flags + begin, p.edits.bias + begin,
           p.edit_begin[s + 1] - begin},
          p.num_logprobs[s]};
}

// The mask that a row obeys, or nullptr.
__device__ inline const uint32_t* row_mask(const SampleKernelParams& p, int32_t row) {
  if (p.num_masks == nullptr || *p.num_masks == 0 || p.mask_index[row] < 0) return nullptr;
  return p.masks + static_cast<int64_t>(p.mask_index[row]) * p.mask_words;
}

// Keeps the tokens whose key is above key, and of those with that key the ones at index <= last of the block's part.
struct Cut {
  uint32_t key;
  int32_t last;

  __device__ bool keeps(uint32_t other, int32_t index) const { return other > key || (other == key && index <= last); }
};

// A histogram's range of keys, and what its bins are: of equal width in logits, or of 2^shift keys from high down.
struct KeyRange {
  uint32_t low;
  uint32_t high;
  int32_t shift;  // -1: by linear_bin
};

// The bin in which a cut falls.
struct Choice {
  uint64_t target;  // the amount that the cut shall reach
  uint64_t above;   // the amount of all bins before this one
  uint64_t amount;  // this bin's: its count or its weight
  uint32_t count;
  int32_t bin;
};

template <int kThreads>
struct SamplerShared {
  uint32_t count[kBins];
  uint32_t weight_low[kBins];  // 64-bit sums in halves: atomics on 32 bits are the fast ones in shared memory
  uint32_t weight_high[kBins];
  uint32_t total_count[kBins];
  uint64_t total_weight[kBins];
  uint64_t warp_sum[kThreads / 32];
  uint64_t list[kMaxTopTokens];
  Choice choice;
  uint32_t num_listed;
  int32_t found;
};

__device__ inline uint64_t warp_inclusive_sum(uint64_t value) {
  const int lane = threadIdx.x & 31;
  for (int offset = 1; offset < 32; offset *= 2) {
    const uint64_t below = __shfl_up_sync(~0u, value, offset);
    if (lane >= offset) value += below;
  }
  return value;
}

__device__ inline uint64_t warp_sum(uint64_t value) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  return value;
}

__device__ inline uint64_t warp_max(uint64_t value) {
  for (int offset = 16; offset > 0; offset /= 2) {
    const uint64_t other = __shfl_xor_sync(~0u, value, offset);
    value = other > value ? other : value;
  }
  return value;
}

// The least key in [low, high] for which is_reached holds; it must hold for high, and for every key above one for which
// it holds. Whole warp; each round leaves a 32nd of the range.
template <class IsReached>
__device__ uint32_t least_key(uint32_t low, uint32_t high, IsReached is_reached) {
  const uint32_t lane = threadIdx.x & 31;
  while (low < high) {
    const uint32_t step = (high - low) / 32 + 1;
    const bool inside = lane * step < high - low;  // below 2^32: (31 / 32) (high - low) + 31
    const uint32_t reached = __ballot_sync(~0u, !inside || is_reached(low + lane * step));
    if (reached == 0) {
      low += 31 * step + 1;
    } else {
      const uint32_t first = static_cast<uint32_t>(__ffs(static_cast<int>(reached))) - 1;
      if (first == 0) return low;
      const uint64_t end = static_cast<uint64_t>(low) + first * step;
      low += (first - 1) * step + 1;
      high = end < high ? static_cast<uint32_t>(end) : high;
    }
  }
  return low;
}

// One block of a row. Group: the row's blocks, which write own()[kSlotWords], sync(), read of(rank) and turn() to the
// other slot; a slot is written again only after the next sync(), when all have read it.
template <int kThreads, class Group>
class RowSampler {
 public:
  __device__ RowSampler(const SampleKernelParams& p, int32_t row, Group& group, SamplerShared<kThreads>& shared,
                        float* part)
      : p_(p),
        row_(row),
        group_(group),
        shared_(shared),
        part_(part),
        first_(group.rank() * p.part_size),
        length_(clamp(p.vocab_size - first_, 0, p.part_size)) {}

  // All threads of the block.
  __device__ void run() {
    if (p_.rows != nullptr && p_.rows[row_].seq_index < 0) return;
    wanted_ = read_row(p_, row_);
    const uint64_t best = group_max(load());
    max_key_ = ranked_key(best);
    if (max_key_ <= kLowestKey) return leave_empty();
    max_ = key_logit(max_key_);
    if (wanted_.num_logprobs >= 0) sum_weights();
    if (wanted_.params.temperature == 0 || max_key_ == kInfinityKey) {
      if (group_.rank() == 0 && threadIdx.x == 0) write_token(ranked_id(best), max_);
    } else {
      draw();
    }
    write_top_tokens();
  }

  // All threads of the block: the log-probability and rank of the row's given token, and its most likely ones.
  __device__ void score() {
    wanted_.num_logprobs = p_.num_logprobs[row_];
    max_key_ = ranked_key(group_max(load()));
    if (max_key_ <= kLowestKey) {
      fill_top_tokens(0);
      return write_score(key_logit(kLowestKey), 1);
    }
    max_ = key_logit(max_key_);
    sum_weights();
    const float logit = clean_logit(p_.logits[static_cast<int64_t>(row_) * p_.logits_stride + p_.score_token[row_]]);
    const uint32_t key = logit_key(logit);
    uint64_t before;
    const uint64_t above = group_sum([&](int32_t i) { return static_cast<uint64_t>(logit_key(part_[i]) > key); }, before);
    write_score(logprob(logit), 1 + static_cast<int32_t>(above));
    write_top_tokens();
  }

 private:
  static constexpr int kWarps = kThreads / 32;

  __device__ static int32_t clamp(int32_t x, int32_t low, int32_t high) { return x < low ? low : x > high ? high : x; }

  // --- The row's logits -------------------------------------------------------------------------------------------

  // Reads the part, edited, into shared memory; returns this thread's best token.
  __device__ uint64_t load() {
    constexpr int kUnroll = 4;  // loads of 16 bytes under way in a thread
    const float* logits = p_.logits + static_cast<int64_t>(row_) * p_.logits_stride + first_;
    const bool aligned = (reinterpret_cast<uintptr_t>(logits) & 15) == 0;
    const int32_t in_fours = aligned ? length_ & ~3 : 0;
    uint64_t best = 0;
    const auto keep = [&](int32_t i, float x) {
      x = clean_logit(x);
      part_[i] = x;
      const uint64_t ranked = ranked_token(logit_key(x), first_ + i);
      best = ranked > best ? ranked : best;
    };
    for (int32_t begin = 4 * static_cast<int32_t>(threadIdx.x); begin < in_fours; begin += 4 * kThreads * kUnroll) {
      float4 four[kUnroll];
#pragma unroll
      for (int j = 0; j < kUnroll; ++j) {
        const int32_t i = begin + 4 * kThreads * j;
        if (i < in_fours) four[j] = *reinterpret_cast<const float4*>(logits + i);
      }
#pragma unroll
      for (int j = 0; j < kUnroll; ++j) {
        const int32_t i = begin + 4 * kThreads * j;
        if (i >= in_fours) continue;
        keep(i, four[j].x);
        keep(i + 1, four[j].y);
        keep(i + 2, four[j].z);
        keep(i + 3, four[j].w);
      }
    }
    for (int32_t i = in_fours + static_cast<int32_t>(threadIdx.x); i < length_; i += kThreads) keep(i, logits[i]);
    __syncthreads();
    const uint32_t* mask = row_mask(p_, row_);
    if (wanted_.edits.num == 0 && mask == nullptr) return best;
    if (wanted_.edits.num > 0) edit();
    if (mask != nullptr) apply_mask(mask + first_ / 32);
    best = 0;
    for (int32_t i = threadIdx.x; i < length_; i += kThreads) {
      const uint64_t ranked = ranked_token(logit_key(part_[i]), first_ + i);
      best = ranked > best ? ranked : best;
    }
    return best;
  }

  __device__ void edit() {
    const LogitEdits& edits = wanted_.edits;
    for (int32_t e = threadIdx.x; e < edits.num; e += kThreads) {
      const int32_t i = edits.token[e] - first_;
      if (i < 0 || i >= length_) continue;
      part_[i] = edit_logit(part_[i], wanted_.params, edits.count[e], edits.flags[e], edits.bias[e]);
    }
    __syncthreads();
  }

  // words: from the part's first on; parts begin on whole words.
  __device__ void apply_mask(const uint32_t* words) {
    for (int32_t i = threadIdx.x; i < length_; i += kThreads) {
      if ((words[i / 32] >> (i % 32) & 1) == 0) part_[i] = key_logit(kLowestKey);
    }
    __syncthreads();
  }

  __device__ uint64_t weight_of(float x) const {
    return integer_weight(logit_weight(x, max_, wanted_.params.temperature));
  }

  __device__ void sum_weights() {
    uint64_t before;
    const uint64_t sum = group_sum([&](int32_t i) { return integer_weight(logit_weight(part_[i], max_, 1.0f)); }, before);
    log_sum_exp_ = max_ + log(static_cast<double>(sum) * kWeightUnit);
  }

  // --- Between the blocks of the row ------------------------------------------------------------------------------

  __device__ uint64_t group_max(uint64_t value) {
    const int lane = threadIdx.x & 31;
    value = warp_max(value);
    if (lane == 0) shared_.warp_sum[threadIdx.x / 32] = value;
    __syncthreads();
    if (threadIdx.x < 32) {
      value = warp_max(lane < kWarps ? shared_.warp_sum[lane] : 0);
      if (lane == 0) group_.own()[0] = value;
    }
    group_.sync();
    value = 0;
    for (int rank = lane; rank < group_.size(); rank += 32) {
      const uint64_t other = group_.read(group_.of(rank));
      value = other > value ? other : value;
    }
    group_.turn();
    return warp_max(value);
  }

  // The sum of amount(index) over all tokens of the row; before: over those of the blocks before this one. Leaves each
  // warp's own sum in shared_.warp_sum, for find().
  template <class Amount>
  __device__ uint64_t group_sum(Amount amount, uint64_t& before) {
    const int lane = threadIdx.x & 31;
    const int32_t end = range_begin(threadIdx.x / 32 + 1);
    uint64_t value = 0;
    for (int32_t i = range_begin(threadIdx.x / 32) + lane; i < end; i += 32) value += amount(i);
    value = warp_sum(value);
    if (lane == 0) shared_.warp_sum[threadIdx.x / 32] = value;
    __syncthreads();
    if (threadIdx.x < 32) {
      value = warp_sum(lane < kWarps ? shared_.warp_sum[lane] : 0);
      if (lane == 0) group_.own()[0] = value;
    }
    group_.sync();
    uint64_t lower = 0, total = 0;
    for (int rank = lane; rank < group_.size(); rank += 32) {
      const uint64_t other = group_.read(group_.of(rank));
      total += other;
      if (rank < group_.rank()) lower += other;
    }
    group_.turn();
    before = warp_sum(lower);
    return warp_sum(total);
  }

  // Where a warp's range of the part begins; ranges are whole groups of 32.
  __device__ int32_t range_begin(int warp) const {
    const int32_t groups = (length_ + 31) / 32;
    const int32_t begin = 32 * ((groups + kWarps - 1) / kWarps) * warp;
    return begin < length_ ? begin : length_;
  }

  // Right after group_sum(amount): calls act(index) on all lanes of one warp with the first index at which the part's
  // sum of amounts exceeds target; on none when the whole part does not.
  //
  //   warps   |   0   |   1   |   2   |      the warp whose sums pass the target
  //   lanes           |0|1|...|31|           takes it apart in 32, again and again, until one token is left
  template <class Amount, class Act>
  __device__ void find(Amount amount, uint64_t target, Act act) {
    const int lane = threadIdx.x & 31;
    const int warp = threadIdx.x / 32;
    const uint64_t own = lane < kWarps ? shared_.warp_sum[lane] : 0;
    const uint64_t through = __shfl_sync(~0u, warp_inclusive_sum(own), warp);
    const uint64_t before = through - __shfl_sync(~0u, own, warp);
    if (target < before || target >= through) return;
    target -= before;
    int32_t begin = range_begin(warp);
    int32_t end = range_begin(warp + 1);
    while (end - begin > 1) {
      int32_t per_lane = (end - begin + 31) / 32;
      if (per_lane > 1) per_lane |= 1;  // an odd stride: the lanes read different banks
      const int32_t lane_begin = begin + lane * per_lane;
      uint64_t sum = 0;
      for (int32_t i = lane_begin; i < lane_begin + per_lane && i < end; ++i) sum += amount(i);
      const uint64_t inclusive = warp_inclusive_sum(sum);
      const int chosen = __ffs(static_cast<int>(__ballot_sync(~0u, inclusive > target))) - 1;
      target -= __shfl_sync(~0u, inclusive - sum, chosen);
      begin += chosen * per_lane;
      end = begin + per_lane < end ? begin + per_lane : end;
    }
    act(begin);
  }

  // --- Cuts -------------------------------------------------------------------------------------------------------

  // The cut that keeps the count most likely of those that within keeps.
  __device__ Cut cut_by_count(const Cut& within, uint64_t count) { return narrow(within, count, 0.0f); }

  // The cut that keeps the least number of most likely tokens whose weights are fraction of what within keeps.
  __device__ Cut cut_by_weight(const Cut& within, float fraction) { return narrow(within, 0, fraction); }

  // By weight where count is 0. Five rounds at most: one by logits and four that each settle 8 of a key's 32 bits.
  __device__ Cut narrow(const Cut& within, uint64_t count, float fraction) {
    const bool by_weight = count == 0;
    const float scale = linear_scale(wanted_.params.temperature);
    KeyRange range = {within.key, max_key_, max_key_ == kInfinityKey ? key_shift(within.key, max_key_) : -1};
    Choice choice = {count, 0, 0, 0, 0};
    bool is_first = true;
    while (true) {
      fill_histogram(within, range, scale, by_weight);
      choice = choose_bin(choice, is_first, by_weight, fraction);
      range = range_of_bin(range, scale, choice.bin);
      is_first = false;
      const Cut whole = {range.low, range.low == within.key ? within.last : INT_MAX};
      if (choice.count == 1 || choice.above + choice.amount == choice.target) return whole;
      if (range.low == range.high) return cut_ties(within, range.low, choice, by_weight);
      range.shift = key_shift(range.low, range.high);
    }
  }

  __device__ void fill_histogram(const Cut& within, const KeyRange& range, float scale, bool by_weight) {
    for (int b = threadIdx.x; b < kBins; b += kThreads) {
      shared_.count[b] = shared_.weight_low[b] = shared_.weight_high[b] = 0;
    }
    __syncthreads();
    for (int32_t i = threadIdx.x; i < length_; i += kThreads) {
      const float x = part_[i];
      const uint32_t key = logit_key(x);
      if (key > range.high || key < range.low || !within.keeps(key, i)) continue;
      const int32_t bin =
          range.shift < 0 ? linear_bin(x, max_, scale) : static_cast<int32_t>((range.high - key) >> range.shift);
      atomicAdd(&shared_.count[bin], 1u);
      if (by_weight) add_weight(bin, weight_of(x));
    }
    __syncthreads();
  }

  __device__ void add_weight(int32_t bin, uint64_t weight) {
    const uint32_t low = static_cast<uint32_t>(weight);
    uint32_t high = static_cast<uint32_t>(weight >> 32);
    if (low != 0 && atomicAdd(&shared_.weight_low[bin], low) > ~low) ++high;  // the sum of the low halves wrapped
    if (high != 0) atomicAdd(&shared_.weight_high[bin], high);
  }

  // Sums the blocks' histograms and finds the bin that reaches the target. Same result in all threads.
  __device__ Choice choose_bin(const Choice& before, bool is_first, bool by_weight, float fraction) {
    uint64_t* weights = group_.own();
    uint32_t* counts = reinterpret_cast<uint32_t*>(weights + kBins);
    for (int b = threadIdx.x; b < kBins; b += kThreads) {
      counts[b] = shared_.count[b];
      if (by_weight) weights[b] = (static_cast<uint64_t>(shared_.weight_high[b]) << 32) + shared_.weight_low[b];
    }
    group_.sync();
    for (int b = threadIdx.x; b < kBins; b += kThreads) {
      uint32_t count = 0;
      uint64_t weight = 0;
      for (int rank = 0; rank < group_.size(); ++rank) {
        count += group_.read(reinterpret_cast<const uint32_t*>(group_.of(rank) + kBins) + b);
        if (by_weight) weight += group_.read(group_.of(rank) + b);
      }
      shared_.total_count[b] = count;
      shared_.total_weight[b] = by_weight ? weight : count;
    }
    group_.turn();
    __syncthreads();
    if (threadIdx.x < 32) search_bins(before, is_first, by_weight, fraction);
    __syncthreads();
    return shared_.choice;
  }

  // One warp: lane l holds bins kBins/32 * l and the following ones.
  __device__ void search_bins(const Choice& before, bool is_first, bool by_weight, float fraction) {
    constexpr int kPerLane = kBins / 32;
    const int first_bin = threadIdx.x * kPerLane;
    uint64_t sum = 0;
    for (int b = first_bin; b < first_bin + kPerLane; ++b) sum += shared_.total_weight[b];
    const uint64_t inclusive = warp_inclusive_sum(sum);
    const uint64_t total = __shfl_sync(~0u, inclusive, 31);
    uint64_t target = before.target;
    if (is_first) target = by_weight ? fraction_of(total, fraction) : target < total ? target : total;
    const uint64_t rest = target - before.above;
    uint64_t above = inclusive - sum;
    if (rest <= above || rest > inclusive) return;
    int bin = first_bin;
    while (above + shared_.total_weight[bin] < rest) above += shared_.total_weight[bin++];
    shared_.choice = {target, before.above + above, shared_.total_weight[bin], shared_.total_count[bin], bin};
  }

  // The keys of a bin; whole warps.
  __device__ KeyRange range_of_bin(const KeyRange& range, float scale, int32_t bin) const {
    if (range.shift >= 0) {
      const uint32_t high = range.high - (static_cast<uint32_t>(bin) << range.shift);
      const uint32_t width = (1u << range.shift) - 1;
      return {high - range.low > width ? high - width : range.low, high, range.shift};
    }
    const auto reaches = [&](int32_t limit) {
      return [this, scale, limit](uint32_t key) { return linear_bin(key_logit(key), max_, scale) <= limit; };
    };
    const uint32_t low = least_key(range.low, range.high, reaches(bin));
    const uint32_t high = bin == 0 ? range.high : least_key(range.low, range.high, reaches(bin - 1)) - 1;
    return {low, high, range.shift};
  }

  // Among tokens of one key, all of the same weight, the lower ids are kept.
  __device__ Cut cut_ties(const Cut& within, uint32_t key, const Choice& choice, bool by_weight) {
    const uint64_t rest = choice.target - choice.above;
    const uint64_t each = by_weight ? weight_of(key_logit(key)) : 1;
    const uint64_t kept = (rest + each - 1) / each;
    const auto ties = [&](int32_t i) {
      return static_cast<uint64_t>(logit_key(part_[i]) == key && within.keeps(key, i));
    };
    uint64_t before;
    group_sum(ties, before);
    if (kept <= before) return {key, -1};
    if (threadIdx.x == 0) shared_.found = INT_MAX;
    __syncthreads();
    find(ties, kept - before - 1, [&](int32_t i) { shared_.found = i; });
    __syncthreads();
    return {key, shared_.found < within.last || key != within.key ? shared_.found : within.last};
  }

  // --- Results ----------------------------------------------------------------------------------------------------

  __device__ void draw() {
    const SamplingParams& params = wanted_.params;
    Cut cut = {kLowestKey, -1};
    if (params.top_k > 0 && params.top_k < p_.vocab_size) cut = cut_by_count(cut, params.top_k);
    if (params.top_p < 1) cut = cut_by_weight(cut, params.top_p);
    const auto weight = [&](int32_t i) -> uint64_t {
      const float x = part_[i];
      if (!cut.keeps(logit_key(x), i)) return 0;
      const float share = logit_weight(x, max_, params.temperature);
      return share >= params.min_p ? integer_weight(share) : 0;
    };
    uint64_t before;
    const uint64_t total = group_sum(weight, before);
    const double uniform =
        uniform_draw(params.seed_low, params.seed_high, static_cast<uint32_t>(params.sample_index));
    uint64_t target = static_cast<uint64_t>(uniform * static_cast<double>(total));
    target = target < total ? target : total - 1;
    if (target < before) return;
    find(weight, target - before, [&](int32_t i) {
      if ((threadIdx.x & 31) == 0) write_token(first_ + i, part_[i]);
    });
  }

  __device__ void write_token(int32_t token, float logit) {
    p_.sampled[row_] = token;
    if (p_.sampled_logprob != nullptr) p_.sampled_logprob[row_] = wanted_.num_logprobs >= 0 ? logprob(logit) : 0.0f;
  }

  __device__ void write_score(float logprob, int32_t rank) {
    if (group_.rank() != 0 || threadIdx.x != 0) return;
    p_.sampled_logprob[row_] = logprob;
    p_.score_rank[row_] = rank;
  }

  __device__ float logprob(float logit) const { return static_cast<float>(logit - log_sum_exp_); }

  __device__ void write_top_tokens() {
    if (p_.top_token == nullptr) return;
    const int32_t wanted = wanted_.num_logprobs < p_.max_logprobs ? wanted_.num_logprobs : p_.max_logprobs;
    if (wanted <= 0) return fill_top_tokens(0);
    const Cut cut = cut_by_count({kLowestKey, -1}, static_cast<uint64_t>(wanted));
    if (threadIdx.x == 0) shared_.num_listed = 0;
    __syncthreads();
    for (int32_t i = threadIdx.x; i < length_; i += kThreads) {
      const uint32_t key = logit_key(part_[i]);
      if (!cut.keeps(key, i)) continue;
      shared_.list[atomicAdd(&shared_.num_listed, 1u)] = ranked_token(key, first_ + i);
    }
    __syncthreads();
    const uint32_t num_own = shared_.num_listed;
    if (threadIdx.x == 0) group_.own()[0] = num_own;
    for (uint32_t i = threadIdx.x; i < num_own; i += kThreads) group_.own()[1 + i] = shared_.list[i];
    group_.sync();
    if (group_.rank() == 0) merge_top_tokens();
    group_.turn();
  }

  // The first block orders all blocks' lists: a token's place is the number of those more likely.
  __device__ void merge_top_tokens() {
    int32_t num = 0;
    for (int rank = 0; rank < group_.size(); ++rank) {
      const int32_t listed = static_cast<int32_t>(group_.read(group_.of(rank)));
      for (int32_t i = threadIdx.x; i < listed; i += kThreads) shared_.list[num + i] = group_.read(group_.of(rank) + 1 + i);
      num += listed;
    }
    __syncthreads();
    for (int32_t i = threadIdx.x; i < num; i += kThreads) {
      int32_t place = 0;
      for (int32_t j = 0; j < num; ++j) place += shared_.list[j] > shared_.list[i] ? 1 : 0;
      const int64_t at = static_cast<int64_t>(row_) * p_.max_logprobs + place;
      p_.top_token[at] = ranked_id(shared_.list[i]);
      p_.top_logprob[at] = logprob(key_logit(ranked_key(shared_.list[i])));
    }
    fill_top_tokens(num);
  }

  __device__ void fill_top_tokens(int32_t begin) {
    if (p_.top_token == nullptr || group_.rank() != 0) return;
    const int64_t at = static_cast<int64_t>(row_) * p_.max_logprobs;
    for (int32_t i = begin + static_cast<int32_t>(threadIdx.x); i < p_.max_logprobs; i += kThreads) {
      p_.top_token[at + i] = -1;
      p_.top_logprob[at + i] = 0.0f;
    }
  }

  __device__ void leave_empty() {
    fill_top_tokens(0);
    if (group_.rank() != 0 || threadIdx.x != 0) return;
    p_.sampled[row_] = -1;
    if (p_.sampled_logprob != nullptr) p_.sampled_logprob[row_] = 0.0f;
  }

  const SampleKernelParams& p_;
  const int32_t row_;
  Group& group_;
  SamplerShared<kThreads>& shared_;
  float* part_;
  const int32_t first_;   // token of part_[0]
  const int32_t length_;  // tokens in the part
  SampleRow wanted_ = {};
  uint32_t max_key_ = 0;
  float max_ = 0;
  double log_sum_exp_ = 0;
};

}  // namespace octavo
