// What prefill computes between memory and matrix products, checked on the CPU: the fast kernel's shared memory as its
// copies fill it, read the way the tensor core reads through descriptors; the plan
// against its definition. host_tests_test.ts compiles and runs it.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#define __device__

#include "attn/prefill_plan_math.h"
#include "attn/prefill_wgmma_tile.h"
#include "require.h"

namespace {

using Memory = std::vector<uint16_t>;  // shared memory, in elements

struct Descriptor {
  uint32_t start, leading, stride;  // bytes

  explicit Descriptor(uint64_t bits)
      : start((bits & 0x3FFF) << 4), leading(((bits >> 16) & 0x3FFF) << 4), stride(((bits >> 32) & 0x3FFF) << 4) {
    REQUIRE(bits >> 62 == 1, "layout type %d is not the 128-byte swizzle", static_cast<int>(bits >> 62));
  }
};

// The swizzle exchanges address bits 4 to 6 by bits 7 to 9.
uint16_t read_swizzled(const Memory& memory, uint32_t address) {
  return memory[(address ^ ((address >> 7 & 7) << 4)) / 2];
}

// PTX manual, canonical layouts of the matrix descriptor for 16-bit elements and the 128-byte swizzle.
// K-major: ((8, m), (8, 2)) : ((64, stride), (1, 8)).
uint16_t read_k_major(const Memory& memory, const Descriptor& d, int row, int k) {
  return read_swizzled(memory, d.start + row / 8 * d.stride + row % 8 * 128 + k * 2);
}

// MN-major: ((64, m), (8, k)) : ((1, leading), (64, stride)).
uint16_t read_mn_major(const Memory& memory, const Descriptor& d, int n, int k) {
  return read_swizzled(memory, d.start + n / 64 * d.leading + n % 64 * 2 + k / 8 * d.stride + k % 8 * 128);
}

int value_of(int row, int dim) { return (row * 256 + dim) * 40503 & 0xFFFF; }

template <int kHeadDim>
void test_shared_memory() {
  using Tile = octavo::PrefillWgmmaTile<true, kHeadDim>;
  const int row_bytes = 2 * kHeadDim;
  REQUIRE(octavo::half_granule_bytes(row_bytes) == Tile::kHalfBytes, "granule of head_dim %d", kHeadDim);
  // One half of each granule as it lies in a page.
  std::vector<Memory> halves;
  for (int granule = 0; granule < Tile::kGranules; ++granule) {
    Memory half(Tile::kHalfBytes / 2);
    for (int token = 0; token < 16; ++token) {
      for (int dim = 0; dim < kHeadDim; ++dim) {
        half[octavo::byte_offset(row_bytes, token, dim * 2) / 2] =
            static_cast<uint16_t>(value_of(granule * 16 + token, dim));
      }
    }
    halves.push_back(half);
  }
  const uint32_t at = 2048;  // of the stage
  Memory keys((at + Tile::kStageBytes) / 2), values(keys), query((at + Tile::kQueryBytes) / 2);
  for (int granule = 0; granule < Tile::kGranules; ++granule) {
    for (int block = 0; block < Tile::kBlocks; ++block) {
      std::memcpy(&keys[(at + Tile::key_piece(granule, block)) / 2], &halves[granule][block * Tile::kPieceBytes / 2],
                  Tile::kPieceBytes);
    }
    std::memcpy(&values[(at + granule * Tile::kHalfBytes) / 2], halves[granule].data(), Tile::kHalfBytes);
  }
  for (int row = 0; row < 64; ++row) {
    for (int dim = 0; dim < kHeadDim; ++dim) {
      query[(at + Tile::query_chunk(row, dim / 8)) / 2 + dim % 8] = static_cast<uint16_t>(value_of(row, dim));
    }
  }
  for (int d = 0; d < kHeadDim / 16; ++d) {
    const Descriptor a(Tile::query_descriptor(at) + Tile::query_step(d));
    const Descriptor b(Tile::key_descriptor(at) + Tile::key_step(d));
    for (int k = 0; k < 16; ++k) {
      for (int row = 0; row < 64; ++row) {
        REQUIRE(read_k_major(query, a, row, k) == value_of(row, d * 16 + k), "Q row %d dim %d", row, d * 16 + k);
      }
      for (int key = 0; key < Tile::kKeys; ++key) {
        REQUIRE(read_k_major(keys, b, key, k) == value_of(key, d * 16 + k), "K key %d dim %d", key, d * 16 + k);
      }
    }
  }
  for (int granule = 0; granule < Tile::kGranules; ++granule) {
    const Descriptor b(Tile::value_descriptor(at) + Tile::value_step(granule));
    for (int k = 0; k < 16; ++k) {
      for (int dim = 0; dim < kHeadDim; ++dim) {
        REQUIRE(read_mn_major(values, b, dim, k) == value_of(granule * 16 + k, dim), "V key %d dim %d",
                granule * 16 + k, dim);
      }
    }
  }
}

struct Plan {
  octavo::PrefillPlanParams params{};
  std::vector<int32_t> query_len, seq_len, seq_token{0}, seq_scratch{0};
};

// The plan kernel's prefix sums.
void sum_up(Plan& plan) {
  octavo::PrefillPlanParams& p = plan.params;
  p.query_len = plan.query_len.data();
  p.seq_len = plan.seq_len.data();
  p.num_seqs = static_cast<int32_t>(plan.query_len.size());
  for (int s = 0; s < p.num_seqs; ++s) plan.seq_token.push_back(plan.seq_token.back() + plan.query_len[s]);
  p.seq_token = plan.seq_token.data();
  p.num_tokens = plan.seq_token.back();
  for (int s = 0; s < p.num_seqs; ++s) plan.seq_scratch.push_back(plan.seq_scratch.back() + octavo::scratch_need(p, s));
  p.seq_scratch = plan.seq_scratch.data();
}

// Each new token of each of prefill's sequences lies in one tile of one list, whose keys hold all that it sees, in the
// scratch too.
void test_plan(const Plan& plan) {
  const octavo::PrefillPlanParams& p = plan.params;
  for (int s = 0; s < p.num_seqs; ++s) {
    int tiles = 0, rows = 0;
    for (int list = 0; list < octavo::kPrefillLists; ++list) {
      for (int number = 0; number < octavo::count_tiles(p, s, list); ++number, ++tiles) {
        const octavo::PrefillTile tile = octavo::make_tile(p, list, s, number);
        REQUIRE(tile.row_begin == rows && tile.num_rows > 0 && tile.num_rows <= p.tile_rows[list], "rows %d + %d",
                tile.row_begin, tile.num_rows);
        REQUIRE((tile.scratch != octavo::kNoScratch) == (list == octavo::kFastList && !p.fast_reads_pages), "list %d", list);
        for (int row = tile.row_begin; row < tile.row_begin + tile.num_rows; ++row) {
          const int position = plan.seq_len[s] - plan.query_len[s] + row / p.group;
          const int oldest = p.sliding_window > 0 ? std::max(position - p.sliding_window + 1, 0) : 0;
          REQUIRE(tile.first_position + row / p.group == position, "position %d", position);
          REQUIRE(tile.kv_begin <= oldest && tile.kv_end > position, "row %d sees %d to %d", row, oldest, position);
        }
        REQUIRE(tile.kv_end <= plan.seq_len[s], "keys to %d of %d", tile.kv_end, plan.seq_len[s]);
        if (tile.scratch != octavo::kNoScratch) {
          const octavo::ScratchSpan span = octavo::make_span(p, s);
          REQUIRE(span.granule_end <= p.scratch_granules, "granule %d", span.granule_end);
          REQUIRE(span.key_begin <= tile.kv_begin && span.key_end >= tile.kv_end, "span %d to %d", span.key_begin,
                  span.key_end);
          // As the conversion places them: the granule of key_begin first.
          const int first = span.granule_begin + tile.kv_begin / 16 - span.key_begin / 16;
          REQUIRE(tile.scratch + tile.kv_begin / 16 == first, "scratch granule %d", first);
          REQUIRE(span.granule_begin + (span.key_end + 15) / 16 - span.key_begin / 16 == span.granule_end, "span of %d",
                  span.granule_end - span.granule_begin);
        }
        rows += tile.num_rows;
      }
    }
    const bool served = p.has_general || p.fast_reads_pages || octavo::has_scratch(p, s);
    const int expected = plan.query_len[s] <= p.longest_decode || !served ? 0 : plan.query_len[s] * p.group;
    REQUIRE(rows == expected, "sequence %d has %d rows, its tiles %d", s, expected, rows);
    REQUIRE(octavo::count_tiles(p, s, 0) == 0 || octavo::count_tiles(p, s, 1) == 0, "sequence %d is in both lists", s);
  }
}

void test_plans() {
  std::mt19937 random(1);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  for (int round = 0; round < 2000; ++round) {
    Plan plan;
    octavo::PrefillPlanParams& p = plan.params;
    for (int s = 1 + below(20); s > 0; --s) {
      plan.query_len.push_back(below(3) == 0 ? 1 + below(4) : 1 + below(500));
      plan.seq_len.push_back(plan.query_len.back() + (below(2) == 0 ? 0 : below(5000)));
    }
    p.group = 1 + below(9);
    p.longest_decode = below(8);
    p.sliding_window = below(2) == 0 ? 0 : 1 + below(1000);
    p.max_kv = 1 << 20;
    p.tile_rows[0] = below(2) == 0 ? 128 : 192;
    p.tile_rows[1] = below(2) == 0 ? 128 : 64;
    p.fast_reads_pages = below(3) == 0;
    p.has_general = below(3) != 0;
    p.scratch_granules = p.fast_reads_pages ? 0 : below(600);
    p.shortest_scratch = below(100);
    sum_up(plan);
    test_plan(plan);
  }
}

void test_row_division() {
  std::mt19937 random(2);
  for (uint32_t group = 1; group <= 64; ++group) {
    const uint32_t reciprocal = octavo::group_reciprocal(group);
    const auto check = [&](int row) {
      const int expected = row / static_cast<int>(group);
      REQUIRE(octavo::divide_row(row, reciprocal) == expected, "row %d of groups of %u", row, group);
    };
    constexpr int kEnd = 1 << 26;
    for (int i = 0; i < 2000; ++i) {
      const int whole = static_cast<int>(random() % kEnd) / static_cast<int>(group) * static_cast<int>(group);
      check(whole), check(whole + static_cast<int>(group) - 1);
    }
    for (int row = 0; row < 300; ++row) check(row), check(kEnd - 1 - row);
  }
}

}  // namespace

int main() {
  test_shared_memory<64>();
  test_shared_memory<128>();
  test_shared_memory<192>();
  test_shared_memory<256>();
  test_plans();
  test_row_division();
  std::puts("all host tests passed");
  return 0;
}
