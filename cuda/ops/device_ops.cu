#include "arch/block_rows.cuh"
#include "kv/stats_rules.h"
#include "ops/device_ops.h"

namespace octavo {
namespace {

constexpr int kWarp = 32;

// --- The step's tables ---------------------------------------------------------------------------------------------

constexpr int kUnpackBlocks = 32;
constexpr int kUnpackThreads = 256;

// Calls body(i) for i in [0, count), spread over the whole grid.
template <class Body>
__device__ void for_grid(int count, Body body) {
  for (int i = blockIdx.x * kUnpackThreads + threadIdx.x; i < count; i += kUnpackBlocks * kUnpackThreads) body(i);
}

// The last s in [0, num_seqs) with begin[s] <= index: whose token or row it is.
__device__ int find_sequence(const int32_t* begin, int num_seqs, int index) {
  int low = 0;
  int high = num_seqs;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (begin[middle] <= index ? low : high) = middle;
  }
  return low;
}

// Token t of sequence s is at position seq_len - (query_begin[s + 1] - t).
//
//   tokens   | sequence 0          | sequence 1 | ... | padding
//   position   seq_len - query_len ... seq_len - 1      0
//   slot       page_table[s][position / page_size] * page_size + position % page_size, -1 for padding
__device__ void place_token(const UnpackParams& p, const int32_t* words, int t) {
  const PackedStep& packed = *p.packed;
  int32_t token = 0;
  int32_t position = 0;
  int32_t slot = -1;
  if (t < packed.num_tokens) {
    const int32_t* query_begin = words + packed.query_begin;
    const int s = find_sequence(query_begin, packed.num_seqs, t);
    token = words[packed.tokens + t];
    // A row without a token (its logits hold no number) feeds token 0: its result is worth nothing.
    if (token < 0) token = max(p.sampled[-(token + 1)], 0);
    position = words[packed.seq_len + s] - (query_begin[s + 1] - t);
    const int32_t* pages = words + packed.page_table + static_cast<int64_t>(s) * packed.page_columns;
    const int shift = words[packed.page_shift + s];
    slot = (pages[position >> shift] << shift) + (position & ((1 << shift) - 1));
  }
  p.tables.tokens[t] = token;
  p.tables.positions[t] = position;
  p.tables.slot_mapping[t] = slot;
}

__device__ void place_sequence(const UnpackParams& p, const int32_t* words, int s) {
  const PackedStep& packed = *p.packed;
  const bool is_own = s < packed.num_seqs;
  const int32_t* query_begin = words + packed.query_begin;
  p.tables.query_len[s] = is_own ? query_begin[s + 1] - query_begin[s] : 1;
  p.tables.seq_len[s] = is_own ? words[packed.seq_len + s] : 0;
}

//   tokens   | sequence 0          | sequence 1 |      a sequence's rows come after its last tokens
//   rows              0   1   2               3
__device__ void place_row(const UnpackParams& p, const int32_t* words, int r) {
  const PackedStep& packed = *p.packed;
  const int32_t* row_begin = words + packed.row_begin;
  const bool is_own = r < packed.num_rows;
  const int s = is_own ? find_sequence(row_begin, packed.num_seqs, r) : -1;
  p.tables.rows[r] = {s, is_own ? r - row_begin[s] : 0};
  p.tables.row_token[r] = is_own ? words[packed.query_begin + s + 1] - (row_begin[s + 1] - r) : 0;
}

__global__ void __launch_bounds__(kUnpackThreads) unpack_kernel(const __grid_constant__ UnpackParams p) {
  gpu_wait_for_predecessor();
  gpu_release_successor();
  const PackedStep& packed = *p.packed;
  const int32_t* words = reinterpret_cast<const int32_t*>(p.packed);
  for (int run = 0; run < packed.num_runs; ++run) {
    const PackedRun about = packed.runs[run];
    for_grid(about.count, [&](int i) { p.step_buffer[about.target + i] = words[about.source + i]; });
  }
  for_grid(packed.num_seqs * packed.page_columns, [&](int i) {
    const int s = i / packed.page_columns;
    p.tables.page_table[static_cast<int64_t>(s) * p.max_pages + i % packed.page_columns] = words[packed.page_table + i];
  });
  for_grid(p.num_tokens, [&](int t) { place_token(p, words, t); });
  for_grid(p.num_seqs, [&](int s) { place_sequence(p, words, s); });
  for_grid(p.num_rows, [&](int r) { place_row(p, words, r); });
}

// --- Rows ----------------------------------------------------------------------------------------------------------

constexpr int kMaxRowThreads = 256;  // few: a row's block fits on a multiprocessor beside two of the products'

int row_threads(int32_t columns) {
  const int wanted = (columns / 4 + kWarp - 1) / kWarp * kWarp;
  return wanted < kMaxRowThreads ? wanted : kMaxRowThreads;
}

void check_columns(int32_t columns) {
  if (columns % 4 == 0 && columns <= kMaxRowColumns) return;
  fail(OCTAVO_UNSUPPORTED, "on the GPU hidden_size must be a multiple of 4 up to %d, found %d", kMaxRowColumns, columns);
}

// A row of the block's: thread i holds groups i, i + threads, ... of four columns.
//
//   columns   | 0..3 | 4..7 | ... |         group g is held by thread g % threads as value[g / threads]
template <int kGroups>
struct RowPart {
  float4 value[kGroups];
};

template <int kGroups, class Body>
__device__ void for_groups(int columns, Body body) {
#pragma unroll
  for (int c = 0; c < kGroups; ++c) {
    const int column = 4 * (c * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x));
    if (column < columns) body(c, column);
  }
}

__device__ float4 load4(const float* x) { return *reinterpret_cast<const float4*>(x); }
__device__ void store4(float* x, float4 value) { *reinterpret_cast<float4*>(x) = value; }

template <int kGroups>
__device__ RowPart<kGroups> load_row(const float* x, int columns) {
  RowPart<kGroups> part = {};
  for_groups<kGroups>(columns, [&](int c, int column) { part.value[c] = load4(x + column); });
  return part;
}

__device__ float4 multiply(float4 a, float4 b) { return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w); }
__device__ float4 scaled(float4 a, float b) { return make_float4(a.x * b, a.y * b, a.z * b, a.w * b); }
__device__ float4 add(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

// 1 / sqrt(mean of squares + eps)
template <int kGroups>
__device__ float norm_factor(const RowPart<kGroups>& part, int columns, float eps) {
  float squares = 0;
#pragma unroll
  for (int c = 0; c < kGroups; ++c) {
    const float4 x = part.value[c];
    squares += x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
  }
  return 1.0f / sqrtf(block_sum(squares) / static_cast<float>(columns) + eps);
}

// normed = part * factor * weight, of the compute type.
template <int kGroups>
__device__ void store_normed(const RowPart<kGroups>& part, const RowPart<kGroups>& weight, float factor, void* normed,
                             int64_t row, int columns, int dtype) {
  uint16_t* target = static_cast<uint16_t*>(normed) + row * columns;
  for_groups<kGroups>(columns, [&](int c, int column) {
    *reinterpret_cast<uint2*>(target + column) =
        pack_compute(multiply(scaled(part.value[c], factor), weight.value[c]), dtype);
  });
}

// The same, rounded to the compute type and then to E4M3.
template <int kGroups>
__device__ void store_normed_e4m3(RowPart<kGroups>& part, const RowPart<kGroups>& weight, float factor,
                                  const NormParams& p, int64_t row) {
  float largest = 0;
  for_groups<kGroups>(p.columns, [&](int c, int) {
    const float4 exact = multiply(scaled(part.value[c], factor), weight.value[c]);
    part.value[c] = unpack_compute(pack_compute(exact, p.compute_dtype), p.compute_dtype);
    largest = fmaxf(largest, largest_of(part.value[c]));
  });
  const float scale = e4m3_scale(block_max(largest));
  if (threadIdx.x == 0) p.e4m3_scales[row] = scale;
  for_groups<kGroups>(p.columns, [&](int c, int column) {
    *reinterpret_cast<uint32_t*>(p.e4m3 + row * p.columns + column) = pack_e4m3(part.value[c], scale);
  });
}

// A block a token.
template <int kGroups>
__global__ void __launch_bounds__(kMaxRowThreads) embed_kernel(const __grid_constant__ EmbedParams p) {
  const RowPart<kGroups> weight = load_row<kGroups>(p.norm, p.columns);
  gpu_wait_for_predecessor();
  gpu_release_successor();
  const int64_t token = blockIdx.x;
  const uint16_t* source = static_cast<const uint16_t*>(p.embedding) + static_cast<int64_t>(p.tokens[token]) * p.columns;
  RowPart<kGroups> part = {};
  for_groups<kGroups>(p.columns, [&](int c, int column) {
    part.value[c] = scaled(unpack_compute(*reinterpret_cast<const uint2*>(source + column), p.compute_dtype), p.scale);
    store4(p.hidden + token * p.columns + column, part.value[c]);
  });
  store_normed(part, weight, norm_factor(part, p.columns, p.eps), p.normed, token, p.columns, p.compute_dtype);
  const float position = static_cast<float>(p.positions[token]);
  for (int table = 0; table < 2; ++table) {
    if (p.cosines[table] == nullptr) continue;
    for (int i = threadIdx.x; i < p.half; i += blockDim.x) {
      float sine, cosine;
      sincosf(position * p.inv_freq[table * p.half + i], &sine, &cosine);
      p.cosines[table][token * p.half + i] = cosine * p.rope_factor[table];
      p.sines[table][token * p.half + i] = sine * p.rope_factor[table];
    }
  }
}

// A block a row. The norm's weights are constant: they are on their way before the predecessor has ended.
template <int kGroups>
__global__ void __launch_bounds__(kMaxRowThreads) norm_kernel(const __grid_constant__ NormParams p) {
  const RowPart<kGroups> weight = p.norm == nullptr ? RowPart<kGroups>{} : load_row<kGroups>(p.norm, p.columns);
  gpu_release_successor();  // a product, which fetches weights first
  gpu_wait_for_predecessor();
  const int64_t row = p.rows == nullptr ? blockIdx.x : p.rows[blockIdx.x];
  float* hidden = p.hidden + row * p.columns;
  RowPart<kGroups> part = load_row<kGroups>(hidden, p.columns);
  if (p.projected != nullptr) {
    const RowPart<kGroups> projected = load_row<kGroups>(p.projected + row * p.columns, p.columns);
    const float factor = p.post_norm == nullptr ? 1.0f : norm_factor(projected, p.columns, p.eps);
    for_groups<kGroups>(p.columns, [&](int c, int column) {
      float4 x = projected.value[c];
      if (p.post_norm != nullptr) x = multiply(scaled(x, factor), load4(p.post_norm + column));
      part.value[c] = add(part.value[c], x);
      store4(hidden + column, part.value[c]);
    });
  }
  if (p.norm == nullptr) return;
  const float factor = norm_factor(part, p.columns, p.eps);
  if (p.e4m3 != nullptr)
    store_normed_e4m3(part, weight, factor, p, blockIdx.x);
  else
    store_normed(part, weight, factor, p.normed, blockIdx.x, p.columns, p.compute_dtype);
}

// The kernel whose threads hold as many groups of four columns as a row needs.
template <class Kernel>
Kernel pick_groups(int32_t columns, Kernel one, Kernel two, Kernel four, Kernel eight, Kernel sixteen) {
  const int groups = (columns / 4 + kMaxRowThreads - 1) / kMaxRowThreads;
  return groups <= 1 ? one : groups <= 2 ? two : groups <= 4 ? four : groups <= 8 ? eight : sixteen;
}

constexpr int kSoftcapThreads = 256;
constexpr int kSoftcapBlocks = 1024;

__global__ void __launch_bounds__(kSoftcapThreads) softcap_kernel(const __grid_constant__ SoftcapParams p) {
  gpu_wait_for_predecessor();
  gpu_release_successor();
  for (int64_t i = blockIdx.x * kSoftcapThreads + threadIdx.x; i < p.count; i += int64_t{gridDim.x} * kSoftcapThreads) {
    p.logits[i] = p.cap * tanhf(p.logits[i] / p.cap);
  }
}

// --- KV scales -----------------------------------------------------------------------------------------------------

constexpr int kScaleThreads = 1024;

// A block a part. It runs in the first steps of an engine's life, so one block has the time.
__global__ void __launch_bounds__(kScaleThreads) kv_scales_kernel(const __grid_constant__ KvScalesParams p) {
  gpu_wait_for_predecessor();
  gpu_release_successor();
  const int part = blockIdx.x;
  float largest = 0;
  for (int64_t token = 0; token < p.num_tokens; ++token) {
    for (int i = threadIdx.x; i < p.width; i += kScaleThreads) {
      const float magnitude = fabsf(p.values[part][token * p.stride[part] + i]);
      if (magnitude > largest && isfinite(magnitude)) largest = magnitude;
    }
  }
  largest = fmaxf(block_max(largest), p.absmax[part]);
  __syncthreads();  // every thread has read absmax
  if (threadIdx.x == 0) p.absmax[part] = largest;
  if (p.scales == nullptr) return;
  const float scale = largest / p.divisor[part];
  for (int head = threadIdx.x; head < p.num_kv_heads; head += kScaleThreads) {
    p.scales[part * p.num_kv_heads + head] = scale > 0 ? scale : 1.0f;
  }
}

// A block a part and kv head, so that sums have one order:
//
//   thread t   | dim t % head_dim | of every group-th token from t / head_dim |
__global__ void __launch_bounds__(kScaleThreads) kv_histogram_kernel(const __grid_constant__ KvHistogramParams p) {
  __shared__ uint32_t counts[OCTAVO_KV_STATS_BINS];
  __shared__ double sums[kScaleThreads];
  gpu_wait_for_predecessor();
  gpu_release_successor();
  for (int bin = threadIdx.x; bin < OCTAVO_KV_STATS_BINS; bin += kScaleThreads) counts[bin] = 0;
  __syncthreads();
  const int row = blockIdx.x;
  const int part = row / p.num_kv_heads;
  const int head = row % p.num_kv_heads;
  const int groups = kScaleThreads / p.head_dim;
  const int group = static_cast<int>(threadIdx.x) / p.head_dim;
  const int dim = static_cast<int>(threadIdx.x) % p.head_dim;
  float largest = 0;
  double sum = 0;
  if (group < groups) {
    const float* values = p.values[part] + static_cast<int64_t>(head) * p.head_dim + dim;
    for (int64_t token = group; token < p.num_tokens; token += groups) {
      const float x = values[token * p.stride[part]];
      if (isnan(x)) continue;
      largest = fmaxf(largest, fabsf(x));
      sum += static_cast<double>(x);
      atomicAdd(&counts[kv_stats_bin(x)], 1u);
    }
  }
  sums[threadIdx.x] = sum;
  largest = block_max(largest);
  __syncthreads();
  if (threadIdx.x == 0) p.absmax[row] = fmaxf(p.absmax[row], largest);
  for (int bin = threadIdx.x; bin < OCTAVO_KV_STATS_BINS; bin += kScaleThreads) {
    p.counts[static_cast<int64_t>(row) * OCTAVO_KV_STATS_BINS + bin] += counts[bin];
  }
  if (part == 1 || static_cast<int>(threadIdx.x) >= p.head_dim) return;
  for (int other = 1; other < groups; ++other) sum += sums[other * p.head_dim + dim];
  p.k_sum[static_cast<int64_t>(head) * p.head_dim + dim] += sum;
}

}  // namespace

void unpack_step(const UnpackParams& params, GpuStream stream, bool overlap) {
  gpu_launch(unpack_kernel, kUnpackBlocks, kUnpackThreads, 0, stream, overlap, params);
}

void embed_tokens(const EmbedParams& params, GpuStream stream, bool overlap) {
  check_columns(params.columns);
  const auto kernel = pick_groups(params.columns, embed_kernel<1>, embed_kernel<2>, embed_kernel<4>, embed_kernel<8>,
                                  embed_kernel<16>);
  gpu_launch(kernel, params.num_tokens, row_threads(params.columns), 0, stream, overlap, params);
}

void norm_rows(const NormParams& params, GpuStream stream, bool overlap) {
  check_columns(params.columns);
  if (params.num_rows == 0) return;
  const auto kernel = pick_groups(params.columns, norm_kernel<1>, norm_kernel<2>, norm_kernel<4>, norm_kernel<8>,
                                  norm_kernel<16>);
  gpu_launch(kernel, params.num_rows, row_threads(params.columns), 0, stream, overlap, params);
}

void softcap_logits(const SoftcapParams& params, GpuStream stream, bool overlap) {
  const int64_t wanted = (params.count + kSoftcapThreads - 1) / kSoftcapThreads;
  const int blocks = static_cast<int>(wanted < kSoftcapBlocks ? wanted : kSoftcapBlocks);
  if (blocks > 0) gpu_launch(softcap_kernel, blocks, kSoftcapThreads, 0, stream, overlap, params);
}

void calculate_kv_scales(const KvScalesParams& params, GpuStream stream, bool overlap) {
  gpu_launch(kv_scales_kernel, 2, kScaleThreads, 0, stream, overlap, params);
}

void count_kv(const KvHistogramParams& params, GpuStream stream, bool overlap) {
  gpu_launch(kv_histogram_kernel, 2 * params.num_kv_heads, kScaleThreads, 0, stream, overlap, params);
}

}  // namespace octavo
