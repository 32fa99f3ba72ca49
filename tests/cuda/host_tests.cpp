// What the CUDA kernels compute between memory and matrix products, checked on the CPU: lane maps of the fragments with
// a warp emulated register by register, and the plan against its definition. host_tests_test.ts compiles and runs it.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "require.h"

#define OCTAVO_EMULATE_WARP
#define __device__

namespace {

uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = (static_cast<uint64_t>(b) << 32) | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i)
    result |= static_cast<uint32_t>((bytes >> (8 * ((selector >> (4 * i)) & 7))) & 255) << (8 * i);
  return result;
}

// The emulated 16-bit elements are plain integers: maps are what is tested, not rounding. An 8-bit element widens to
// the same integer.
void e4m3x4_to_f16x4(uint32_t four, uint32_t& low, uint32_t& high) {
  low = __byte_perm(four, 0, 0x4140);
  high = __byte_perm(four, 0, 0x4342);
}

uint32_t int4_pair_to_f16x2(uint32_t eight, int i) { return (eight >> (4 * i)) & 0x000F000Fu; }

uint32_t int8x2_to_f16x2(uint32_t four, uint32_t selector) { return __byte_perm(four, 0, selector); }

void e5m2x4_to_f16x4(uint32_t four, uint32_t& low, uint32_t& high) { e4m3x4_to_f16x4(four, low, high); }

uint32_t pack_f16x2(float low, float high) { return static_cast<uint32_t>(low) | (static_cast<uint32_t>(high) << 16); }
uint32_t pack_bf16x2(float low, float high) { return pack_f16x2(low, high); }
[[maybe_unused]] void mma_f16(float (&)[4], const uint32_t (&)[4], uint32_t, uint32_t) {}
[[maybe_unused]] void mma_bf16(float (&)[4], const uint32_t (&)[4], uint32_t, uint32_t) {}

}  // namespace

#include "attn/plan_math.h"
#include "kv/stored.cuh"

namespace {

using octavo::chunk_offset;
using octavo::DimPair;

constexpr int kLanes = 32;

// ldmatrix.x4: lane l gives the address of row l % 8 of matrix l / 8; lane (g, t) receives row g's elements 2t, 2t+1,
// or, transposed, column g's rows 2t, 2t+1.
void ldmatrix(const std::vector<uint8_t>& memory, const int (&address)[kLanes], bool transposed,
              uint32_t (&out)[kLanes][4]) {
  const auto element = [&](int matrix, int row, int column) {
    const int at = address[matrix * 8 + row] + column * 2;
    return static_cast<uint32_t>(memory[at] | (memory[at + 1] << 8));
  };
  for (int lane = 0; lane < kLanes; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int m = 0; m < 4; ++m) {
      out[lane][m] = transposed ? element(m, 2 * t, g) | (element(m, 2 * t + 1, g) << 16)
                                : element(m, g, 2 * t) | (element(m, g, 2 * t + 1) << 16);
    }
  }
}

uint32_t half_of(uint32_t pair, int upper) { return upper ? pair >> 16 : pair & 0xFFFF; }

// d[16][8] += a b, with a and b in fragment registers as the PTX manual lays out m16n8k16.
void mma(double (&d)[16][8], const uint32_t (&a)[kLanes][4], const uint32_t (&b)[kLanes][2]) {
  double full_a[16][16], full_b[16][8];
  for (int lane = 0; lane < kLanes; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int e = 0; e < 2; ++e) {
      for (int i = 0; i < 4; ++i) full_a[g + 8 * (i % 2)][2 * t + e + 8 * (i / 2)] = half_of(a[lane][i], e);
      for (int i = 0; i < 2; ++i) full_b[2 * t + e + 8 * i][g] = half_of(b[lane][i], e);
    }
  }
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 8; ++n) {
      for (int k = 0; k < 16; ++k) d[m][n] += full_a[m][k] * full_b[k][n];
    }
  }
}

// K or V of one granule: elements of distinct values and where they lie.
struct Half {
  int row_bytes;
  std::vector<uint8_t> memory;
  std::vector<std::vector<int>> x;  // [token][dim]

  Half(int head_dim, int bits, std::mt19937& random)
      : row_bytes(octavo::round_up_to_chunk(head_dim * bits / 8)),
        memory(static_cast<size_t>(octavo::half_granule_bytes(row_bytes))),
        x(16, std::vector<int>(static_cast<size_t>(head_dim))) {
    for (int token = 0; token < 16; ++token) {
      for (int d = 0; d < head_dim; ++d) {
        x[token][d] = static_cast<int>(random() % (1u << bits));
        for (int bit = 0; bit < bits; ++bit) {
          const int at = d * bits + bit;
          memory[octavo::byte_offset(row_bytes, token, at / 8)] |=
              static_cast<uint8_t>(((x[token][d] >> bit) & 1) << (at % 8));
        }
      }
    }
  }

  int pairs() const { return (row_bytes / 16 + 1) / 2; }

  // What ldmatrix.x4 brings of a chunk pair.
  void load(int pair, bool transposed, uint32_t (&out)[kLanes][4]) const {
    int address[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      const int token = (lane & 7) + ((lane >> 3) & 1) * 8;
      address[lane] = chunk_offset(row_bytes, token, std::min(2 * pair + (lane >> 4), row_bytes / 16 - 1));
    }
    ldmatrix(memory, address, transposed, out);
  }
};

// Both products of one granule against their definition.
template <class Stored>
void test_lane_maps(const char* name, int head_dim) {
  const int dim_steps = head_dim / 16;
  std::mt19937 random(head_dim);
  const Half key(head_dim, Stored::kKeyBits, random), value(head_dim, Stored::kValueBits, random);
  std::vector<std::vector<int>> q(8, std::vector<int>(static_cast<size_t>(head_dim)));
  int p[16][8];
  for (auto& row : q) {
    for (int& one : row) one = static_cast<int>(random() % 256);
  }
  for (auto& row : p) {
    for (int& one : row) one = static_cast<int>(random() % 256);
  }

  // Q's fragments, [dim step][lane][b0, b1].
  std::vector<uint32_t> query(static_cast<size_t>(dim_steps) * kLanes * 2);
  for (int g = 0; g < 8; ++g) {
    for (int d = 0; d < head_dim; ++d) {
      const octavo::QuerySlot slot = Stored::query_slot(d);
      query[(slot.step * kLanes + 4 * g + slot.t) * 2 + slot.half] |=
          slot.upper != 0 ? Stored::pack(0, static_cast<float>(q[g][d])) : Stored::pack(static_cast<float>(q[g][d]), 0);
    }
  }
  double s[16][8] = {};
  for (int pair = 0; pair < key.pairs(); ++pair) {
    uint32_t raw[kLanes][4];
    key.load(pair, false, raw);
    for (int i = 0; i < Stored::kKeySteps && pair * Stored::kKeySteps + i < dim_steps; ++i) {
      uint32_t a[kLanes][4], b[kLanes][2];
      for (int lane = 0; lane < kLanes; ++lane) {
        Stored::key_fragment(raw[lane], i, a[lane]);
        for (int half = 0; half < 2; ++half) {
          b[lane][half] = query[((pair * Stored::kKeySteps + i) * kLanes + lane) * 2 + half];
        }
      }
      mma(s, a, b);
    }
  }
  std::vector<std::vector<double>> out(static_cast<size_t>(head_dim), std::vector<double>(8));
  for (int pair = 0; pair < value.pairs(); ++pair) {
    uint32_t raw[kLanes][4];
    value.load(pair, true, raw);
    for (int i = 0; i < Stored::kValueSteps && pair * Stored::kValueSteps + i < dim_steps; ++i) {
      uint32_t a[kLanes][4], b[kLanes][2];
      double o[16][8] = {};
      for (int lane = 0; lane < kLanes; ++lane) {
        const int g = lane / 4, t = lane % 4;
        Stored::value_fragment(raw[lane], i, a[lane]);
        for (int upper = 0; upper < 2; ++upper) {
          // What movmatrix makes of score fragments: keys 2t, 2t+1 (+ 8) of column g.
          b[lane][upper] = Stored::pack(static_cast<float>(p[2 * t + 8 * upper][g]),
                                        static_cast<float>(p[2 * t + 1 + 8 * upper][g]));
        }
      }
      mma(o, a, b);
      for (int g = 0; g < 8; ++g) {
        const DimPair dims = Stored::output_dims(pair * Stored::kValueSteps + i, g);
        for (int n = 0; n < 8; ++n) {
          out[dims.first][n] = o[g][n];
          out[dims.second][n] = o[g + 8][n];
        }
      }
    }
  }
  for (int n = 0; n < 8; ++n) {
    for (int token = 0; token < 16; ++token) {
      double expected = 0;
      for (int d = 0; d < head_dim; ++d) expected += static_cast<double>(key.x[token][d]) * q[n][d];
      REQUIRE(s[token][n] == expected, "%s head_dim %d: score of key %d, column %d: %g, not %g", name, head_dim, token,
              n, s[token][n], expected);
    }
    for (int d = 0; d < head_dim; ++d) {
      double expected = 0;
      for (int token = 0; token < 16; ++token) expected += static_cast<double>(value.x[token][d]) * p[token][n];
      REQUIRE(out[d][n] == expected, "%s head_dim %d: output dim %d, column %d: %g, not %g", name, head_dim, d, n,
              out[d][n], expected);
    }
  }
}

// The eight rows of each ldmatrix matrix lie in eight different 16-byte bank groups.
void test_bank_conflicts(int row_bytes) {
  for (int chunk = 0; chunk < row_bytes / 16; ++chunk) {
    for (int octet = 0; octet < 2; ++octet) {
      unsigned seen = 0;
      for (int row = 0; row < 8; ++row) seen |= 1u << (chunk_offset(row_bytes, octet * 8 + row, chunk) / 16 % 8);
      REQUIRE(seen == 0xFF, "row of %d bytes, chunk %d: bank groups %x", row_bytes, chunk, seen);
    }
  }
}

// query_slot undoes query_dims.
template <class Stored>
void test_query_slots(const char* name) {
  for (int t = 0; t < 4; ++t) {
    for (int half = 0; half < 2; ++half) {
      const DimPair dims = Stored::query_dims(t, half);
      for (int step = 0; step < 3; ++step) {
        for (int upper = 0; upper < 2; ++upper) {
          const int dim = step * 16 + (upper != 0 ? dims.second : dims.first);
          const octavo::QuerySlot slot = Stored::query_slot(dim);
          REQUIRE(slot.step == step && slot.t == t && slot.half == half && slot.upper == upper,
                  "%s: dim %d goes to step %d, t %d, b%d, upper %d", name, dim, slot.step, slot.t, slot.half, slot.upper);
        }
      }
    }
  }
}

struct Plan {
  std::vector<octavo::PlanRow> rows;
  std::vector<int64_t> row_cost;
  std::vector<octavo::PlanRange> ranges;
  octavo::PlanParams params{};
};

// The plan kernel's steps, one after another.
Plan make_plan(std::vector<int> query_len, std::vector<int> seq_len, int tile_tokens, int heads, int step_tokens,
               int window, int num_ranges, int item_cost, int min_steps) {
  Plan plan;
  octavo::PlanParams& p = plan.params;
  const int num_seqs = static_cast<int>(seq_len.size());
  std::vector<int32_t> seq_token{0}, seq_row{0};
  p.query_len = query_len.data();
  p.seq_len = seq_len.data();
  p.num_seqs = num_seqs;
  p.tile_tokens = tile_tokens;
  std::vector<int32_t> prefilled;
  for (int length : query_len) prefilled.push_back(length > 50);
  p.prefilled = num_seqs % 3 == 0 ? prefilled.data() : nullptr;
  for (int s = 0; s < num_seqs; ++s) {
    seq_token.push_back(seq_token.back() + query_len[s]);
    seq_row.push_back(seq_row.back() + octavo::count_rows(p, s));
    REQUIRE((seq_row.back() > seq_row[s]) == (p.prefilled == nullptr || p.prefilled[s] == 0), "sequence %d has no rows", s);
  }
  p.num_tokens = seq_token.back();
  p.num_kv_heads = heads;
  p.step_tokens = step_tokens;
  p.sliding_window = window;
  p.max_kv = 1 << 20;
  p.num_ranges = num_ranges;
  p.few_ranges = std::max(num_ranges / 2, 1);
  p.item_cost = item_cost;
  p.min_range_steps = min_steps;
  p.walk = {4, 2, 1};
  p.seq_token = seq_token.data();
  p.seq_row = seq_row.data();
  plan.row_cost.push_back(0);
  for (int r = 0; r < seq_row.back(); ++r) {
    const int seq = octavo::find_last(seq_row.data(), num_seqs, r);
    plan.rows.push_back(octavo::make_row(p, seq, r - seq_row[seq]));
    plan.row_cost.push_back(plan.row_cost.back() + octavo::item_cost(p, plan.rows.back()) * heads);
  }
  p.rows = plan.rows.data();
  p.row_cost = plan.row_cost.data();
  const int num_rows = static_cast<int>(plan.rows.size());
  const int num_items = num_rows * heads;
  const int64_t total = plan.row_cost.back();
  const int used = octavo::count_ranges(p, num_items, total - static_cast<int64_t>(num_items) * item_cost);
  std::vector<octavo::Cut> cuts;
  for (int c = 0; c <= num_ranges; ++c)
    cuts.push_back(octavo::find_cut(p, num_rows, c >= used ? total : total * c / used));
  for (int c = 0; c < num_ranges; ++c) plan.ranges.push_back(octavo::make_range(p, cuts.data(), c, used, num_items));
  return plan;
}

// Short work leaves half of the blocks to the next kernel, other work none.
void test_range_counts() {
  octavo::PlanParams p{};
  p.num_ranges = 132;
  p.few_ranges = 66;
  p.min_range_steps = 4;
  p.walk = {8, 2, 2};
  const struct {
    int num_items, steps, expected;
  } cases[] = {{8, 32, 8}, {8, 256, 64}, {8, 512, 64}, {8, 1024, 128}, {64, 1024, 64}, {32, 1024, 128}, {128, 512, 128}, {8, 4096, 128}};
  for (const auto& one : cases) {
    const int found = octavo::count_ranges(p, one.num_items, one.steps);
    REQUIRE(found == one.expected, "%d items of %d steps in all: %d ranges, not %d", one.num_items, one.steps, found,
            one.expected);
  }
}

// Every step of every item is in exactly one range, in order, and all ranges of an item agree on who merges it.
void test_plan(const Plan& plan) {
  const int heads = plan.params.num_kv_heads;
  const int num_items = static_cast<int>(plan.rows.size()) * heads;
  std::vector<int> next(static_cast<size_t>(num_items), -1), arrivals(static_cast<size_t>(num_items)),
      head(static_cast<size_t>(num_items)), tail(static_cast<size_t>(num_items));
  for (int c = 0; c < static_cast<int>(plan.ranges.size()); ++c) {
    const octavo::PlanRange& range = plan.ranges[c];
    for (int item = range.item_begin; item <= range.item_last; ++item) {
      const octavo::PlanRow& row = plan.rows[item / heads];
      const int begin = item == range.item_begin ? range.step_begin : row.step_begin;
      const int end = item == range.item_last ? range.step_end : row.step_end;
      if (next[item] < 0) next[item] = row.step_begin;
      REQUIRE(begin == next[item] && end >= begin, "item %d: range %d has steps %d to %d, %d comes next", item, c,
              begin, end, next[item]);
      next[item] = end;
      REQUIRE(range.index == c, "range %d has number %d", c, range.index);
      // As the kernel reads the range (attn/decode_merge.cuh, finish_item).
      const int first = item == range.item_begin ? range.head_range : c;
      const int last = item == range.item_last    ? range.tail_range
                       : item == range.item_begin ? range.begin_tail_range
                                                  : c;
      if (arrivals[item]++ == 0) {
        head[item] = first;
        tail[item] = last;
        REQUIRE(first == c, "item %d: first met in range %d, which names %d", item, c, first);
      }
      REQUIRE(first == head[item] && last == tail[item], "item %d: range %d names %d to %d, not %d to %d", item, c,
              first, last, head[item], tail[item]);
    }
  }
  for (int item = 0; item < num_items; ++item) {
    REQUIRE(next[item] == plan.rows[item / heads].step_end, "item %d ends at step %d", item, next[item]);
    REQUIRE(arrivals[item] == tail[item] - head[item] + 1, "item %d: %d ranges arrive, %d to %d are awaited", item,
            arrivals[item], head[item], tail[item]);
  }
}

void test_plans() {
  test_plan(make_plan({1, 1, 1}, {1, 2, 4099}, 8, 2, 32, 0, 132, 1, 4));
  std::mt19937 random(1);
  const int lengths[] = {1, 15, 16, 17, 33, 100, 512, 5000, 131072};
  for (int round = 0; round < 3000; ++round) {
    std::vector<int> query_len, seq_len;
    const int num_seqs = 1 + static_cast<int>(random() % 40);
    const bool decode = random() % 2 != 0;
    for (int s = 0; s < num_seqs; ++s) {
      seq_len.push_back(lengths[random() % 9]);
      query_len.push_back(decode ? 1 : 1 + static_cast<int>(random() % std::min(seq_len.back(), 100)));
    }
    const int ranges[] = {1, 7, 132, 1024};
    test_plan(make_plan(query_len, seq_len, 1 + static_cast<int>(random() % 32), 1 + static_cast<int>(random() % 8),
                        random() % 2 != 0 ? 16 : 32, random() % 3 == 0 ? 1 + static_cast<int>(random() % 200) : 0,
                        ranges[random() % 4], static_cast<int>(random() % 5), 1 + static_cast<int>(random() % 8)));
  }
}

}  // namespace

int main() {
  for (int head_dim : {16, 64, 80, 96, 112, 128, 192, 256}) {
    test_lane_maps<octavo::StoredE4m3>("e4m3", head_dim);
    test_lane_maps<octavo::StoredE5m2>("e5m2", head_dim);
    test_lane_maps<octavo::StoredInt8>("int8", head_dim);
    test_lane_maps<octavo::StoredF16>("f16", head_dim);
    test_lane_maps<octavo::StoredBf16>("bf16", head_dim);
  }
  for (int row_bytes : {64, 128, 192, 256, 384, 512}) test_bank_conflicts(row_bytes);
  for (int head_dim : {64, 96, 128, 192, 256}) {
    test_lane_maps<octavo::StoredK8V4>("k8v4", head_dim);
    test_lane_maps<octavo::StoredInt4>("int4", head_dim);
  }
  test_query_slots<octavo::StoredE4m3>("e4m3");
  test_query_slots<octavo::StoredBf16>("bf16");
  test_plans();
  test_range_counts();
  std::puts("all host tests passed");
  return 0;
}
