// The attention algorithm, once for all instruction sets. Included inside octavo's namespace after a file of vector
// primitives (simd_*.h), which gives: kLanes, Vec, load, store, splat, add, subtract, mul, fma, max_of,
// horizontal_max, horizontal_sum, keep_lanes, times_power_of_two, kE4m3Factor, transpose_chunk<code>, widen_chunk<code>,
// has_e4m3_nan (code: KvRowFormat.code). Everything here is private to the including file.
//
// A unit's rows (queries x q heads of one kv head) go over the keys a tile at a time:
//
//   K tile, transposed               scores                  V tile
//   [granule][padded_dim][16]        [rows][tile keys]       [tile keys][padded_dim]
//     in f32, read and converted once for all rows, or in float16 (see Half); the same memory then holds V
//
// Inside a split: online softmax, one rescaling a tile. Splits are merged in order. A row's arithmetic is the same
// whichever rows surround it: each sum has its own fixed order, and a key that a row does not see adds nothing.

namespace {

constexpr float kLog2E = 1.44269504088896340736f;
constexpr float kLn2 = 0.693147180559945309417f;

inline float infinity() { return __builtin_inff(); }
inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// 2^x for x up to 126 within 2 ulp; 2^0 = 1, NaN stays NaN, and below -125 the result is 0.
// x = n + f: 2^f by a polynomial on [-0.5, 0.5] (relative error 1e-8), times 2^n.
OCTAVO_INLINE Vec exp2_of(Vec x) {
  const Vec rounder = splat(12582912.0f);  // 1.5 x 2^23: its last place is 1
  const Vec clamped = max_of(splat(-126.0f), x);  // NaN stays
  const Vec shifted = add(clamped, rounder);
  const Vec n = subtract(shifted, rounder);
  const Vec f = subtract(clamped, n);
  Vec p = splat(0.000154531634f);
  p = fma(p, f, splat(0.00133908633f));
  p = fma(p, f, splat(0.00961808302f));
  p = fma(p, f, splat(0.0555035695f));
  p = fma(p, f, splat(0.240226507f));
  p = fma(p, f, splat(0.693147182f));
  p = fma(p, f, splat(1.0f));
  return times_power_of_two(p, shifted, n, x);
}

// A scalar through the vector code, so that all exponentials are the same function.
inline float exp2_one(float x) {
  float lanes[kLanes];
  store(lanes, exp2_of(splat(x)));
  return lanes[0];
}

// The bits of a float16. Units of few rows keep a tile as these where the stored format fits: a processor converts them
// as it loads them, with less work than before a store, but does so again for each block of rows.
using Half = uint16_t;

inline void set_nan(float* to) { *to = __builtin_nanf(""); }
inline void set_nan(Half* to) {
  const Half nan = 0x7e00;
  __builtin_memcpy(to, &nan, sizeof nan);
}

template <int kValue>
struct Constant {
  static constexpr int value = kValue;
};

// Keys [first, end) of a tile, as positions in it.
struct KeyRange {
  int64_t first;
  int64_t end;
  bool empty() const { return first >= end; }
};

class UnitRun {
 public:
  UnitRun(const AttentionArgs& args, const AttentionUnit& unit, float* scratch)
      : args_(args),
        unit_(unit),
        layout_(args.shape),
        work_(scratch, args.shape.head_dim),
        head_dim_(args.shape.head_dim),
        padded_(padded_dim(args.shape.head_dim)),
        keys_(tile_keys(args.shape.head_dim)),
        rows_(unit.num_rows()),
        format_(kv_format(args.shape.kv_dtype)),
        half_tile_(kHalfTile && rows_ <= kRowBlock && fits_half(format_.key.code) && fits_half(format_.value.code)) {
    const float factor = format_.key.code == OCTAVO_KV_FP8_E4M3 ? kE4m3Factor : 1.0f;
    const float* scales = args.scales;
    k_factor_ = (scales == nullptr ? 1.0f : scales[unit.kv_head]) * factor;
    v_factor_ = (scales == nullptr ? 1.0f : scales[args.shape.num_kv_heads + unit.kv_head]) * factor;
  }

  const AttentionWorkspace& work() const { return work_; }

  void gather_queries() {
    for (int32_t r = 0; r < rows_; ++r) {
      const float* from = args_.q + (unit_.first_token + r / unit_.num_heads) * args_.q_stride +
                          int64_t{unit_.first_head + r % unit_.num_heads} * head_dim_;
      __builtin_memcpy(work_.q + int64_t{r} * head_dim_, from, sizeof(float) * static_cast<size_t>(head_dim_));
      if (format_.is_rotated) rotate_head(work_.q + int64_t{r} * head_dim_, head_dim_);
    }
  }

  // Softmax and weighted sum over the keys of one split.
  void run_split(int64_t split, AttentionPartial to) {
    for (int32_t r = 0; r < rows_; ++r) to.max[r] = -infinity();
    __builtin_memset(work_.sums, 0, sizeof(float) * static_cast<size_t>(rows_) * kLanes);
    __builtin_memset(to.acc, 0, sizeof(float) * static_cast<size_t>(rows_) * static_cast<size_t>(padded_));
    const int64_t first = most(split * kSplitKeys, unit_.first_key);
    const int64_t end = least((split + 1) * kSplitKeys, unit_.last_key() + 1);
    int64_t base = first / keys_ * keys_;
    find_granules(base);
    for (; base < end; base += keys_) {
      const KeyRange tile = {most(first - base, 0), least(end - base, keys_)};
      __builtin_memcpy(granules_, next_, sizeof granules_);
      find_granules(base + keys_);
      if constexpr (kHalfTile) {
        if (half_tile_) {
          run_tile<Half>(base, tile, to);
          continue;
        }
      }
      run_tile<float>(base, tile, to);
    }
    for (int32_t r = 0; r < rows_; ++r) to.sum[r] = horizontal_sum(load(work_.sums + r * kLanes));
  }

  // Adds a split's result to those before it. Where either saw no key, the other stays as it is, exactly.
  void merge(AttentionPartial into, AttentionPartial split) {
    for (int32_t r = 0; r < rows_; ++r) {
      const float top = into.max[r] > split.max[r] ? into.max[r] : split.max[r];
      const float base = top == -infinity() ? 0.0f : top;
      const float old_weight = exp2_one(into.max[r] - base);
      const float new_weight = exp2_one(split.max[r] - base);
      into.max[r] = top;
      into.sum[r] = into.sum[r] * old_weight + split.sum[r] * new_weight;
      float* acc = into.acc + int64_t{r} * padded_;
      const float* other = split.acc + int64_t{r} * padded_;
      for (int32_t d = 0; d < padded_; d += kLanes) {
        store(acc + d, fma(splat(new_weight), load(other + d), mul(splat(old_weight), load(acc + d))));
      }
    }
  }

  // Sinks, division and V's scale; writes the unit's rows of out and lse.
  void finish(AttentionPartial from) {
    for (int32_t r = 0; r < rows_; ++r) {
      const int64_t token = unit_.first_token + r / unit_.num_heads;
      const int32_t head = unit_.first_head + r % unit_.num_heads;
      float top = from.max[r];
      float sum = from.sum[r];
      float weight = 1.0f;
      if (args_.sinks != nullptr) {
        const float sink = args_.sinks[head] * kLog2E;
        top = sink > top ? sink : top;
        weight = exp2_one(from.max[r] - top);
        sum = sum * weight + exp2_one(sink - top);
      }
      const Vec scale = splat(weight / sum * v_factor_);
      const int64_t row = token * args_.config.num_q_heads + head;
      float padded[kMaxDim];
      for (int32_t d = 0; d < padded_; d += kLanes) {
        // Adding 0 makes a zero positive: its sign would tell how many unseen keys were added.
        store(padded + d, add(mul(load(from.acc + int64_t{r} * padded_ + d), scale), splat(0.0f)));
      }
      if (format_.is_rotated) rotate_head(padded, head_dim_);
      __builtin_memcpy(args_.out + row * head_dim_, padded, sizeof(float) * static_cast<size_t>(head_dim_));
      if (args_.lse != nullptr) args_.lse[row] = top * kLn2 + __builtin_logf(sum);
    }
  }

 private:
  static constexpr int32_t kMaxDim = 256;

  // Keys of the tile at base that query i sees.
  KeyRange visible(int64_t base, KeyRange tile, int32_t i) const {
    const int64_t position = unit_.first_position + i;
    const int32_t window = args_.config.sliding_window;
    const int64_t first = window > 0 ? position - window + 1 : 0;
    return {most(tile.first, first - base), least(tile.end, position + 1 - base)};
  }

  template <class Element>
  void run_tile(int64_t base, KeyRange tile, AttentionPartial to) {
    // Every row sees the same keys if the first query sees the last key and the last query the first.
    const KeyRange of_first = visible(base, tile, 0);
    const KeyRange of_last = visible(base, tile, unit_.num_queries - 1);
    const bool same = of_first.end == of_last.end && of_first.first == of_last.first;
    const int64_t first_granule = tile.first / kGranuleTokens;
    const int64_t end_granule = (tile.end + kGranuleTokens - 1) / kGranuleTokens;

    for (int64_t g = first_granule; g < end_granule; ++g) {
      const int64_t scales_at = layout_.key.scales_at;
      if (scales_at < layout_.granule_bytes) ask(next_[g] + scales_at, layout_.granule_bytes - scales_at);
      load_keys<Element>(g);
    }
    multiply_scores<Element>(first_granule * kGranuleTokens, end_granule * kGranuleTokens);
    for (int32_t r = 0; r < rows_; ++r) {
      const KeyRange seen = same ? of_first : visible(base, tile, r / unit_.num_heads);
      if (seen.empty()) continue;
      if (format_.key.scales == KvScales::kRow) scale_scores(r, seen);
      softmax_row(r, seen, to);
      if (format_.value.scales == KvScales::kRow) scale_weights(r, seen);
    }
    for (int64_t g = first_granule; g < end_granule; ++g) load_values<Element>(g);
    if (same) {
      accumulate<Element>(0, rows_, of_first, to);
    } else {
      for (int32_t i = 0; i < unit_.num_queries; ++i) {
        const KeyRange seen = visible(base, tile, i);
        if (!seen.empty()) accumulate<Element>(i * unit_.num_heads, (i + 1) * unit_.num_heads, seen, to);
      }
    }
  }

  // --- K and V: bytes to f32 -----------------------------------------------------------------------------------

  // The granule that holds a token.
  const uint8_t* granule(int64_t token) const {
    const uint32_t at = static_cast<uint32_t>(token);
    const uint32_t page_size = static_cast<uint32_t>(args_.shape.page_size);
    const int32_t page = args_.page_table[int64_t{unit_.seq} * args_.config.max_pages_per_seq + at / page_size];
    return args_.pages + layout_.granule_offset(page, unit_.kv_head, at % page_size);
  }

  // Finds the granules of the tile at base, as far as the unit's keys reach; past them, the last one.
  void find_granules(int64_t base) {
    const int64_t last = unit_.last_key();
    for (int64_t g = 0; g < keys_ / kGranuleTokens; ++g) {
      const int64_t key = base + g * kGranuleTokens;
      next_[g] = key <= last || g == 0 ? granule(least(key, last)) : next_[g - 1];
    }
  }

  // Asks for memory that is soon needed: pages lie anywhere, so the processor cannot guess where the next granule is. A
  // few lines at a time between other work: many at once would stop it until they came.
  static void ask(const uint8_t* from, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i, 0, 3);
  }

  template <class Element>
  Element* tile() const {
    return reinterpret_cast<Element*>(work_.tile);
  }

  // Codes that the simd_*.h files turn into float16.
  static bool fits_half(int32_t code) {
    return code == OCTAVO_KV_FLOAT16 || code == OCTAVO_KV_FP8_E4M3 || code == OCTAVO_KV_FP8_E5M2;
  }

  // Calls load with the code as a constant.
  template <class Element, class Load>
  void by_code(int32_t code, const Load& load) const {
    switch (code) {
      case OCTAVO_KV_FLOAT16:
        return load(Constant<OCTAVO_KV_FLOAT16>());
      case OCTAVO_KV_FP8_E4M3:
        return load(Constant<OCTAVO_KV_FP8_E4M3>());
      case OCTAVO_KV_FP8_E5M2:
        return load(Constant<OCTAVO_KV_FP8_E5M2>());
      default:
        if constexpr (sizeof(Element) == sizeof(float)) {
          if (code == OCTAVO_KV_FLOAT32) return load(Constant<OCTAVO_KV_FLOAT32>());
          if (code == OCTAVO_KV_INT8) return load(Constant<OCTAVO_KV_INT8>());
          load(Constant<OCTAVO_KV_BFLOAT16>());
        }
    }
  }

  // K of granule g of the tile: tile[g][d][token].
  template <class Element>
  void load_keys(int64_t g) {
    const uint8_t* part = granules_[g] + layout_.key.at;
    Element* to = tile<Element>() + g * kGranuleTokens * padded_;
    if constexpr (sizeof(Element) == sizeof(float)) {
      if (format_.key.code == OCTAVO_KV_INT4) return load_keys_int4(g, to);
    }
    by_code<Element>(format_.key.code, [=, this](auto code) { load_keys_as<code.value>(part, to); });
  }

  // V of granule g of the tile: tile[16 g + token][d].
  template <class Element>
  void load_values(int64_t g) {
    const uint8_t* part = granules_[g] + layout_.value.at;
    Element* to = tile<Element>() + g * kGranuleTokens * padded_;
    if constexpr (sizeof(Element) == sizeof(float)) {
      if (format_.value.code == OCTAVO_KV_INT4) return load_values_int4(g, to);
    }
    by_code<Element>(format_.value.code, [=, this](auto code) { load_values_as<code.value>(part, to); });
  }

  // A chunk of 4-bit codes and their 16 tokens' scales, which they share.
  //
  //   stored:  | codes of dims 0, 1 | 2, 3 | .. | 30, 31 |   ->   int8: | 0 | 1 | 2 | .. | 31 |
  struct Int4Group {
    uint8_t codes[kGranuleTokens][kGroupDims];
    float scales[kGranuleTokens];
  };

  Int4Group read_int4(const GranulePart& part, int64_t g, int64_t chunk) const {
    Int4Group group;
    const uint8_t* scales = granules_[g] + part.scales_at + chunk * kGranuleTokens * 2;
    for (int token = 0; token < kGranuleTokens; ++token) {
      const uint8_t* codes = granules_[g] + part.at + part.chunk_offset(token, chunk);
      for (int i = 0; i < kChunkBytes; ++i) {
        group.codes[token][2 * i] = static_cast<uint8_t>((codes[i] & 15) - 8);
        group.codes[token][2 * i + 1] = static_cast<uint8_t>((codes[i] >> 4) - 8);
      }
      uint16_t half;
      __builtin_memcpy(&half, scales + 2 * token, sizeof half);
      group.scales[token] = half_value(half);
    }
    return group;
  }

  // The value of a float16's bits.
  static float half_value(Half half) {
    const uint32_t magnitude = uint32_t{half & 0x7fffu} << 13;
    const float value = __builtin_bit_cast(float, magnitude) * 0x1p112f;
    const bool is_finite = (half & 0x7c00) != 0x7c00;
    const uint32_t bits = is_finite ? __builtin_bit_cast(uint32_t, value) : magnitude | 0x7f800000u;
    return __builtin_bit_cast(float, bits | uint32_t{half & 0x8000u} << 16);
  }

  void load_keys_int4(int64_t g, float* to) {
    for (int64_t chunk = 0; chunk * kGroupDims < head_dim_; ++chunk, to += kGroupDims * kGranuleTokens) {
      const Int4Group group = read_int4(layout_.key, g, chunk);
      for (int half = 0; half < 2; ++half) {
        transpose_chunk<OCTAVO_KV_INT8>([&](int token) { return group.codes[token] + half * kChunkBytes; },
                                        to + half * kChunkBytes * kGranuleTokens);
      }
      for (int i = 0; i < kGroupDims * kGranuleTokens; i += kLanes) {
        store(to + i, mul(load(to + i), load(group.scales + i % kGranuleTokens)));
      }
    }
  }

  void load_values_int4(int64_t g, float* to) {
    for (int64_t chunk = 0; chunk * kGroupDims < head_dim_; ++chunk, to += kGroupDims) {
      const Int4Group group = read_int4(layout_.value, g, chunk);
      for (int token = 0; token < kGranuleTokens; ++token) {
        float* row = to + token * int64_t{padded_};
        widen_chunk<OCTAVO_KV_INT8>(group.codes[token], row);
        widen_chunk<OCTAVO_KV_INT8>(group.codes[token] + kChunkBytes, row + kChunkBytes);
        for (int i = 0; i < kGroupDims; i += kLanes) store(row + i, mul(load(row + i), splat(group.scales[token])));
      }
    }
  }

  static constexpr int chunk_elements(int dtype) {
    return dtype == OCTAVO_KV_FLOAT32 ? 4 : dtype == OCTAVO_KV_FLOAT16 || dtype == OCTAVO_KV_BFLOAT16 ? 8 : 16;
  }

  template <int kDtype, class Element>
  void load_keys_as(const uint8_t* part, Element* to) {
    const int64_t row_bytes = layout_.key.row_bytes;
    const int64_t column_floats = chunk_elements(kDtype) * kGranuleTokens;  // of one chunk's elements
    for (int64_t at = 0; at < row_bytes; at += kBlockBytes) {
      const uint8_t* block = part + at * kGranuleTokens;
      Element* columns = to + at / kChunkBytes * column_floats;
      if (row_bytes - at >= 128) {
        transpose_block<kDtype, 128>(block, columns);
      } else if (row_bytes - at == 64) {
        transpose_block<kDtype, 64>(block, columns);
      } else {
        const int64_t width = row_bytes - at;  // not swizzled
        for (int64_t c = 0; c < width; c += kChunkBytes, columns += column_floats) {
          transpose_chunk<kDtype>([=](int token) { return block + token * width + c; }, columns);
        }
      }
    }
    if (kDtype == OCTAVO_KV_FP8_E4M3 && has_e4m3_nan(part, layout_.key.bytes())) {
      patch_nans(layout_.key, part, to, 1, kGranuleTokens);
    }
  }

  // A swizzled block of kWidth bytes a row: chunk c of token t lies at chunk c ^ swizzle(t).
  template <int kDtype, int kWidth, class Element>
  static void transpose_block(const uint8_t* block, Element* to) {
#pragma GCC unroll 8
    for (int c = 0; c < kWidth / kChunkBytes; ++c) {
      transpose_chunk<kDtype>([=](int token) { return block + chunk_in_block<kWidth>(token, c); },
                              to + c * chunk_elements(kDtype) * kGranuleTokens);
    }
  }

  template <int kDtype, class Element>
  void load_values_as(const uint8_t* part, Element* to) {
    constexpr int kElements = chunk_elements(kDtype);
    const int64_t row_bytes = layout_.value.row_bytes;
    const int64_t row_floats = padded_;
    for (int64_t at = 0; at < row_bytes; at += kBlockBytes) {
      const uint8_t* block = part + at * kGranuleTokens;
      Element* columns = to + at / kChunkBytes * kElements;
      if (row_bytes - at >= 128) {
        widen_block<kDtype, 128>(block, columns, row_floats);
      } else if (row_bytes - at == 64) {
        widen_block<kDtype, 64>(block, columns, row_floats);
      } else {
        const int64_t width = row_bytes - at;
        for (int token = 0; token < kGranuleTokens; ++token) {
          for (int64_t c = 0; c < width; c += kChunkBytes) {
            widen_chunk<kDtype>(block + token * width + c, columns + token * row_floats + c / kChunkBytes * kElements);
          }
        }
      }
    }
    if (kDtype == OCTAVO_KV_FP8_E4M3 && has_e4m3_nan(part, layout_.value.bytes())) {
      patch_nans(layout_.value, part, to, row_floats, 1);
    }
  }

  template <int kDtype, int kWidth, class Element>
  static void widen_block(const uint8_t* block, Element* to, int64_t row_floats) {
#pragma GCC unroll 16
    for (int token = 0; token < kGranuleTokens; ++token, to += row_floats) {
#pragma GCC unroll 4
      for (int c = 0; c < kWidth / kChunkBytes; c += 2) {
        widen_two_chunks<kDtype>(block + chunk_in_block<kWidth>(token, c), block + chunk_in_block<kWidth>(token, c + 1),
                                 to + c * chunk_elements(kDtype));
      }
    }
  }

  template <int kWidth>
  static constexpr int chunk_in_block(int token, int c) {
    return token * kWidth + (c ^ (kWidth == 128 ? token & 7 : (token >> 1) & 3)) * kChunkBytes;
  }

  // The quick conversions of E4M3 take its NaN codes for 480: this puts NaN in their places.
  template <class Element>
  void patch_nans(const GranulePart& layout, const uint8_t* part, Element* to, int64_t token_stride,
                  int64_t dim_stride) {
    for (int64_t token = 0; token < kGranuleTokens; ++token) {
      for (int64_t d = 0; d < padded_; ++d) {
        if (d >= layout.row_bytes) break;
        const uint8_t code = part[layout.chunk_offset(token, d / kChunkBytes) + d % kChunkBytes];
        if ((code & 0x7f) == 0x7f) set_nan(to + token * token_stride + d * dim_stride);
      }
    }
  }

  // --- Scores --------------------------------------------------------------------------------------------------

  // scores[r][key] = sum over d, in order, of q[r][d] tile[key / 16][d][key % 16].
  template <class Element>
  void multiply_scores(int64_t first, int64_t end) {
    int64_t key = first;
    for (; key + kScoreVecs * kLanes <= end; key += kScoreVecs * kLanes) score_columns<Element, kScoreVecs>(key);
    if constexpr (kScoreVecs > 2) {
      // Also all of a tile of 32 keys in sixteen lanes.
      for (; key + 2 * kLanes <= end; key += 2 * kLanes) score_columns<Element, 2>(key);
    }
    for (; key < end; key += kLanes) score_columns<Element, 1>(key);
  }

  template <class Element, int kVecs>
  void score_columns(int64_t key) {
    if (rows_ < kRowBlock) return score_rest<Element, kRowBlock - 1, kVecs, true>(0, key);
    score_block<Element, kRowBlock, kVecs, true>(0, key);
    int32_t r = kRowBlock;
    for (; r + kRowBlock <= rows_; r += kRowBlock) score_block<Element, kRowBlock, kVecs, false>(r, key);
    score_rest<Element, kRowBlock - 1, kVecs, false>(r, key);
  }

  template <class Element, int kRows, int kVecs, bool kAsks>
  void score_rest(int32_t r, int64_t key) {
    if constexpr (kRows > 0) {
      if (rows_ - r == kRows) return score_block<Element, kRows, kVecs, kAsks>(r, key);
      score_rest<Element, kRows - 1, kVecs, kAsks>(r, key);
    }
  }

  // The first rows also ask for the next tile's K, a few lines every few columns.
  template <class Element, int kRows, int kVecs, bool kAsks>
  void score_block(int32_t r, int64_t key) {
    Vec acc[kRows][kVecs];
    for (int i = 0; i < kRows; ++i) {
      for (int j = 0; j < kVecs; ++j) acc[i][j] = splat(0.0f);
    }
    const float* q = work_.q + int64_t{r} * head_dim_;
    const Element* k[kVecs];
    for (int j = 0; j < kVecs; ++j) {
      const int64_t at = key + j * kLanes;
      k[j] = tile<Element>() + at / kGranuleTokens * kGranuleTokens * padded_ + at % kGranuleTokens;
    }
    const int64_t dim = head_dim_;
    constexpr int kStep = 4;  // columns, as many bytes of a granule as they have; head_dim is a multiple of 8
    const int64_t step_bytes = kStep * kGranuleTokens * format_.key.code_bits / 8;
    for (int64_t step = 0; step < dim; step += kStep) {
      if constexpr (kAsks) {
        const int64_t at = step / kStep * step_bytes;
        for (int64_t g = key / kGranuleTokens; g * kGranuleTokens < key + kVecs * kLanes; ++g) {
          ask(next_[g] + at, step_bytes);
        }
      }
#pragma GCC unroll 4
      for (int64_t d = step; d < step + kStep; ++d) {
        Vec column[kVecs];
        for (int j = 0; j < kVecs; ++j) hold(column[j] = load(k[j] + d * kGranuleTokens));
        for (int i = 0; i < kRows; ++i) {
          const Vec one = splat(q[i * dim + d]);
          for (int j = 0; j < kVecs; ++j) acc[i][j] = fma(one, column[j], acc[i][j]);
        }
      }
    }
    for (int i = 0; i < kRows; ++i) {
      for (int j = 0; j < kVecs; ++j) store(work_.scores + (r + i) * keys_ + key + j * kLanes, acc[i][j]);
    }
  }

  // --- Scales of whole rows that lie with the tokens (those of groups are in the tile already) -----------------

  // Scales of the kLanes keys from key on, all in one granule.
  Vec token_scales(const GranulePart& part, int64_t key) const {
    const uint8_t* scales = granules_[key / kGranuleTokens] + part.scales_at;
    return load(reinterpret_cast<const float*>(scales) + key % kGranuleTokens);
  }

  void scale_scores(int32_t r, KeyRange seen) {
    float* scores = work_.scores + r * keys_;
    for (int64_t key = seen.first / kLanes * kLanes; key < seen.end; key += kLanes) {
      store(scores + key, mul(load(scores + key), token_scales(layout_.key, key)));
    }
  }

  // After the sum of the weights was taken.
  void scale_weights(int32_t r, KeyRange seen) {
    float* weights = work_.scores + r * keys_;
    for (int64_t key = seen.first / kLanes * kLanes; key < seen.end; key += kLanes) {
      store(weights + key, mul(load(weights + key), token_scales(layout_.value, key)));
    }
  }

  // --- Softmax -------------------------------------------------------------------------------------------------

  // c tanh(x / c) with tanh(y) = 1 - 2 / (exp(2 y) + 1); |y| above 20 is 1 in f32.
  Vec soft_cap(Vec logit, float cap) const {
    const Vec y = max_of(splat(-20.0f), min_of(splat(20.0f), mul(logit, splat(1.0f / cap))));
    const Vec e = exp2_of(mul(y, splat(2.0f * kLog2E)));
    const Vec fraction = divide(splat(2.0f), add(e, splat(1.0f)));
    return mul(splat(cap * kLog2E), add(splat(1.0f), mul(splat(-1.0f), fraction)));
  }

  // Turns a row's scores into weights exp2(logit - max); keys that it does not see get 0.
  void softmax_row(int32_t r, KeyRange seen, AttentionPartial to) {
    float* scores = work_.scores + r * keys_;
    const int64_t first = seen.first / kLanes * kLanes;
    const float cap = args_.config.logit_softcap;
    const float scale = args_.config.softmax_scale * k_factor_;
    const Vec unseen = splat(-infinity());
    Vec top = unseen;
    for (int64_t key = first; key < seen.end; key += kLanes) {
      Vec logit = load(scores + key);
      logit = cap > 0 ? soft_cap(mul(logit, splat(scale)), cap) : mul(logit, splat(scale * kLog2E));
      if (key < seen.first || key + kLanes > seen.end) {
        logit = keep_lanes(logit, seen.first - key, seen.end - key, unseen);
      }
      store(scores + key, logit);
      top = max_of(top, logit);
    }
    const float tile_max = horizontal_max(top);
    const float old_max = to.max[r];
    const float new_max = tile_max > old_max ? tile_max : old_max;
    const float base = new_max == -infinity() ? 0.0f : new_max;
    const float rescale = new_max == old_max ? 1.0f : exp2_one(old_max - base);
    to.max[r] = new_max;
    work_.rescale[r] = rescale;
    Vec sum = mul(load(work_.sums + r * kLanes), splat(rescale));
    for (int64_t key = first; key < seen.end; key += kLanes) {
      const Vec weight = exp2_of(add(load(scores + key), splat(-base)));
      store(scores + key, weight);
      sum = add(sum, weight);
    }
    store(work_.sums + r * kLanes, sum);
  }

  // --- Weighted sum of V ---------------------------------------------------------------------------------------

  // acc[r][d] = acc[r][d] rescale[r] + sum over the seen keys, in order, of weight[r][key] tile[key][d], rows first to
  // end - 1. Keys that are not seen are not touched: there may be NaN.
  template <class Element>
  void accumulate(int32_t first, int32_t end, KeyRange seen, AttentionPartial to) {
    int32_t d = 0;
    for (; d + 4 * kLanes <= padded_ && kValueVecs >= 4; d += 4 * kLanes) accumulate_columns<Element, 4>(first, end, d, seen, to);
    for (; d + 2 * kLanes <= padded_; d += 2 * kLanes) accumulate_columns<Element, 2>(first, end, d, seen, to);
    for (; d < padded_; d += kLanes) accumulate_columns<Element, 1>(first, end, d, seen, to);
  }

  template <class Element, int kVecs>
  void accumulate_columns(int32_t first, int32_t end, int32_t d, KeyRange seen, AttentionPartial to) {
    int32_t r = first;
    if (d == 0) {
      if (end - r < kRowBlock) return accumulate_rest<Element, kRowBlock - 1, kVecs, true>(r, end, d, seen, to);
      accumulate_block<Element, kRowBlock, kVecs, true>(r, d, seen, to);
      r += kRowBlock;
    }
    for (; r + kRowBlock <= end; r += kRowBlock) accumulate_block<Element, kRowBlock, kVecs, false>(r, d, seen, to);
    accumulate_rest<Element, kRowBlock - 1, kVecs, false>(r, end, d, seen, to);
  }

  template <class Element, int kRows, int kVecs, bool kAsks>
  void accumulate_rest(int32_t r, int32_t end, int32_t d, KeyRange seen, AttentionPartial to) {
    if constexpr (kRows > 0) {
      if (end - r == kRows) return accumulate_block<Element, kRows, kVecs, kAsks>(r, d, seen, to);
      accumulate_rest<Element, kRows - 1, kVecs, kAsks>(r, end, d, seen, to);
    }
  }

  // The first rows also ask for the next tile's V, a token's share with every key.
  template <class Element, int kRows, int kVecs, bool kAsks>
  void accumulate_block(int32_t r, int32_t d, KeyRange seen, AttentionPartial to) {
    Vec acc[kRows][kVecs];
    for (int i = 0; i < kRows; ++i) {
      const Vec rescale = splat(work_.rescale[r + i]);
      for (int j = 0; j < kVecs; ++j) {
        acc[i][j] = mul(rescale, load(to.acc + int64_t{r + i} * padded_ + d + j * kLanes));
      }
    }
    const int64_t keys = keys_;
    const int64_t row_floats = padded_;
    const float* weights = work_.scores + r * keys;
    const Element* v = tile<Element>() + seen.first * row_floats + d;
    for (int64_t key = seen.first; key < seen.end; ++key, v += row_floats) {
      if constexpr (kAsks) {
        const uint8_t* part = next_[key / kGranuleTokens] + layout_.value.at;
        ask(part + key % kGranuleTokens * layout_.value.row_bytes, layout_.value.row_bytes);
      }
      Vec row[kVecs];
      for (int j = 0; j < kVecs; ++j) hold(row[j] = load(v + j * kLanes));
      for (int i = 0; i < kRows; ++i) {
        const Vec weight = splat(weights[i * keys + key]);
        for (int j = 0; j < kVecs; ++j) acc[i][j] = fma(weight, row[j], acc[i][j]);
      }
    }
    for (int i = 0; i < kRows; ++i) {
      for (int j = 0; j < kVecs; ++j) store(to.acc + int64_t{r + i} * padded_ + d + j * kLanes, acc[i][j]);
    }
  }

  const AttentionArgs& args_;
  const AttentionUnit& unit_;
  const GranuleLayout layout_;
  const AttentionWorkspace work_;
  const int32_t head_dim_;
  const int32_t padded_;
  const int32_t keys_;
  const int32_t rows_;
  const KvFormat format_;
  const bool half_tile_;
  float k_factor_;
  float v_factor_;
  const uint8_t* granules_[64 / kGranuleTokens];  // of the tile
  const uint8_t* next_[64 / kGranuleTokens];  // granules of the next tile, to be asked for while this one is worked on
};

void attend_whole(const AttentionArgs& args, const AttentionUnit& unit, float* scratch) {
  UnitRun run(args, unit, scratch);
  run.gather_queries();
  const AttentionWorkspace& work = run.work();
  const int64_t first = unit.first_split();
  run.run_split(first, work.merged);
  for (int64_t split = first + 1; split < first + unit.num_splits(); ++split) {
    run.run_split(split, work.split);
    run.merge(work.merged, work.split);
  }
  run.finish(work.merged);
}

void attend_split(const AttentionArgs& args, const AttentionUnit& unit, int64_t split, AttentionPartial partial,
                  float* scratch) {
  UnitRun run(args, unit, scratch);
  run.gather_queries();
  run.run_split(split, partial);
}

void attend_merge(const AttentionArgs& args, const AttentionUnit& unit, float* partials, float* scratch) {
  UnitRun run(args, unit, scratch);
  const int64_t floats = AttentionPartial::floats(unit.num_rows(), args.shape.head_dim);
  const AttentionPartial merged = AttentionPartial::at(partials, unit.num_rows(), args.shape.head_dim);
  for (int64_t i = 1; i < unit.num_splits(); ++i) {
    run.merge(merged, AttentionPartial::at(partials + i * floats, unit.num_rows(), args.shape.head_dim));
  }
  run.finish(merged);
}

}  // namespace
