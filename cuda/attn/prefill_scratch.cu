// Keys and values that the fast prefill kernel cannot read as they lie, converted once a layer and chunk: into granules of
// 16-bit elements whose rows are whole column blocks. FP8 becomes f16, exactly. Scales that lie with the tokens are
// multiplied in, and rotated rows turned back, in f32, with one rounding to f16 in the end: what is beyond its range
// saturates.
#include "arch/ptx.cuh"
#include "attn/plan_math.h"
#include "attn/prefill.h"
#include "kv/encode.cuh"
#include "kv/format.h"

namespace octavo {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 4;  // of a multiprocessor
constexpr int kDims = 8;  // of a chunk of the scratch, which one lane makes

// Where K or V of a granule lies, and how.
struct Half {
  const uint8_t* codes;
  const uint8_t* scales;
  int row_bytes;
};

// A lane's stored bytes: 16 of 16-bit formats, 8 or 4 of the others.
template <int kBits>
__device__ uint4 load_codes(const Half& half, int token, int chunk) {
  constexpr int kBytes = kDims * kBits / 8;
  const int byte = chunk * kBytes;
  if (byte >= half.row_bytes) return make_uint4(0, 0, 0, 0);
  const uint8_t* from = half.codes + byte_offset(half.row_bytes, token, byte);
  if constexpr (kBytes == 16) return *reinterpret_cast<const uint4*>(from);
  if constexpr (kBytes == 4) return make_uint4(*reinterpret_cast<const uint32_t*>(from), 0, 0, 0);
  const uint2 two = *reinterpret_cast<const uint2*>(from);
  return make_uint4(two.x, two.y, 0, 0);
}

// Codes of 8 or 4 bits as f16, exactly, in pairs of neighbours or, of 4 bits, of dims i and i + 4.
template <int kCode>
__device__ void widen_codes(const uint4& raw, uint32_t (&pairs)[4]) {
  if constexpr (kCode == OCTAVO_KV_INT4) {
#pragma unroll
    for (int i = 0; i < 4; ++i) pairs[i] = int4_pair_to_f16x2(raw.x, i);
  } else if constexpr (kCode == OCTAVO_KV_INT8) {
    pairs[0] = int8x2_to_f16x2(raw.x, 0x4140), pairs[1] = int8x2_to_f16x2(raw.x, 0x4342);
    pairs[2] = int8x2_to_f16x2(raw.y, 0x4140), pairs[3] = int8x2_to_f16x2(raw.y, 0x4342);
  } else if constexpr (kCode == OCTAVO_KV_FP8_E5M2) {
    e5m2x4_to_f16x4(raw.x, pairs[0], pairs[1]), e5m2x4_to_f16x4(raw.y, pairs[2], pairs[3]);
  } else {
    e4m3x4_to_f16x4(raw.x, pairs[0], pairs[1]), e4m3x4_to_f16x4(raw.y, pairs[2], pairs[3]);
  }
}

__device__ void turn(float& low, float& high) {
  const float sum = low + high;
  high = low - high;
  low = sum;
}

// H x over a row, of which each of neighbouring lanes holds eight dims. Whole warp.
__device__ void rotate_chunks(float (&x)[kDims], int chunk, int head_dim) {
  const int block = rotation_block(head_dim);
#pragma unroll
  for (int distance = 1; distance < kDims; distance *= 2) {
#pragma unroll
    for (int i = 0; i < kDims; ++i) {
      if ((i & distance) == 0) turn(x[i], x[i + distance]);
    }
  }
  for (int distance = 1; distance < block / kDims; distance *= 2) {
    const float sign = (chunk & distance) != 0 ? -1.0f : 1.0f;
#pragma unroll
    for (int i = 0; i < kDims; ++i) x[i] = __shfl_xor_sync(~0u, x[i], distance) + sign * x[i];
  }
  const float norm = 1.0f / sqrtf(static_cast<float>(block));
#pragma unroll
  for (int i = 0; i < kDims; ++i) x[i] *= norm;
}

// A chunk of the scratch from a row of a format. Whole warp.
template <KvRowFormat kRow, bool kRotated>
__device__ uint4 convert_chunk(const uint4& raw, const Half& half, int token, int chunk, int head_dim) {
  if constexpr (kRow.code_bits == 16) {
    return raw;
  } else {
    uint32_t pairs[4];
    widen_codes<kRow.code>(raw, pairs);
    if constexpr (kRow.scales != KvScales::kNone) {
      float scale = 0.0f;
      if (chunk * kDims < head_dim) {
        scale = kRow.scales == KvScales::kRow
                    ? reinterpret_cast<const float*>(half.scales)[token]
                    : __half2float(reinterpret_cast<const __half*>(
                          half.scales)[chunk / (kGroupDims / kDims) * kGranuleTokens + token]);
      }
      constexpr int kApart = kRow.code_bits == 4 ? 4 : 1;  // dims of a pair
      float x[kDims];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 two = __half22float2(*reinterpret_cast<const __half2*>(&pairs[i]));
        const int first = kApart == 4 ? i : 2 * i;
        x[first] = two.x * scale, x[first + kApart] = two.y * scale;
      }
      if constexpr (kRotated) rotate_chunks(x, chunk, head_dim);
#pragma unroll
      for (int i = 0; i < 4; ++i) pairs[i] = pack_f16x2(saturate(x[2 * i], 65504.0f), saturate(x[2 * i + 1], 65504.0f));
    }
    return make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
  }
}

// Converts 16 tokens of K or V, of which those in [begin, end) are valid; the others become zeros. Whole warp.
//
//   units:  chunk fastest: | token 0: chunk 0, 1, .. | token 1 | ..     a lane's every 32nd; rows begin at multiples of 8
template <KvRowFormat kRow, bool kRotated, int kScratchDim>
__device__ void convert_half(const Half& half, int begin, int end, int head_dim, uint8_t* to) {
  constexpr int kChunks = kScratchDim / kDims;
  constexpr int kUnits = kGranuleTokens * kChunks / 32;  // of a lane
  constexpr int kAtOnce = 4;                       // loads in flight
  static_assert(kUnits % kAtOnce == 0, "batches are whole");
  const int lane = static_cast<int>(threadIdx.x & 31);
#pragma unroll 1
  for (int first = 0; first < kUnits; first += kAtOnce) {
    uint4 raw[kAtOnce];
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      const int unit = (first + u) * 32 + lane;
      raw[u] = load_codes<kRow.code_bits>(half, unit / kChunks, unit % kChunks);
    }
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      const int unit = (first + u) * 32 + lane;
      const int token = unit / kChunks;
      const int chunk = unit % kChunks;
      uint4 out = convert_chunk<kRow, kRotated>(raw[u], half, token, chunk, head_dim);
      if (token < begin || token >= end) out = make_uint4(0, 0, 0, 0);
      *reinterpret_cast<uint4*>(to + chunk_offset(2 * kScratchDim, token, chunk)) = out;
    }
  }
}

// A warp takes K or V of a (granule, kv head) at a time.
template <int kKvDtype, int kScratchDim>
__global__ void __launch_bounds__(kThreads, kBlocks) scratch_kernel(const __grid_constant__ ScratchParams p) {
  gpu_wait_for_predecessor();
  gpu_release_successor();
  constexpr KvFormat kFormat = kv_format(kKvDtype);
  constexpr int kHalfBytes = half_granule_bytes(2 * kScratchDim);
  const int num_spans = *p.num_spans;
  int span_index = 0;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kThreads / 32);
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + (threadIdx.x >> 5);; i += warps) {
    const bool is_value = i % 2 != 0;
    const int granule = static_cast<int>(i / (2 * p.kv.num_kv_heads));
    const int head = static_cast<int>(i / 2 - static_cast<int64_t>(granule) * p.kv.num_kv_heads);
    while (span_index < num_spans && granule >= p.spans[span_index].granule_end) ++span_index;
    if (span_index == num_spans) return;
    const ScratchSpan span = p.spans[span_index];
    const int key = (span.key_begin / kGranuleTokens + granule - span.granule_begin) * kGranuleTokens;
    const int32_t page = p.page_table[static_cast<int64_t>(span.seq) * p.max_pages + (key >> p.kv.page_shift)];
    const uint32_t last = static_cast<uint32_t>(p.num_pages - 1);  // ids are kept inside the pool
    const uint8_t* from = p.pages + p.kv.granule_offset(static_cast<int32_t>(smaller(static_cast<uint32_t>(page), last)),
                                                        head, key & ((1 << p.kv.page_shift) - 1));
    uint8_t* to = p.scratch + head * p.head_bytes + static_cast<int64_t>(granule) * 2 * kHalfBytes;
    const int begin = span.key_begin - key;
    const int end = span.key_end - key;
    if (is_value) {
      convert_half<kFormat.value, kFormat.is_rotated, kScratchDim>(
          {from + p.kv.value_at, from + p.kv.value_scales_at, p.kv.value_row_bytes}, begin, end, p.head_dim,
          to + kHalfBytes);
    } else {
      convert_half<kFormat.key, kFormat.is_rotated, kScratchDim>({from, from + p.kv.key_scales_at, p.kv.row_bytes},
                                                                 begin, end, p.head_dim, to);
    }
  }
}

using ScratchKernel = void (*)(const ScratchParams);

template <int kKvDtype>
ScratchKernel find_kernel(int scratch_dim) {
  switch (scratch_dim) {
    case 64:
      return scratch_kernel<kKvDtype, 64>;
    case 128:
      return scratch_kernel<kKvDtype, 128>;
    case 192:
      return scratch_kernel<kKvDtype, 192>;
    default:
      return scratch_kernel<kKvDtype, 256>;
  }
}

ScratchKernel find_kernel(int kv_dtype, int scratch_dim) {
  switch (kv_dtype) {
    case OCTAVO_KV_FP8_E4M3:
      return find_kernel<OCTAVO_KV_FP8_E4M3>(scratch_dim);
    case OCTAVO_KV_FP8_E5M2:
      return find_kernel<OCTAVO_KV_FP8_E5M2>(scratch_dim);
    case OCTAVO_KV_FP8_PER_TOKEN_HEAD:
      return find_kernel<OCTAVO_KV_FP8_PER_TOKEN_HEAD>(scratch_dim);
    case OCTAVO_KV_INT8:
      return find_kernel<OCTAVO_KV_INT8>(scratch_dim);
    case OCTAVO_KV_INT8_PER_TOKEN_HEAD:
      return find_kernel<OCTAVO_KV_INT8_PER_TOKEN_HEAD>(scratch_dim);
    case OCTAVO_KV_K8V4:
      return find_kernel<OCTAVO_KV_K8V4>(scratch_dim);
    case OCTAVO_KV_INT4:
      return find_kernel<OCTAVO_KV_INT4>(scratch_dim);
    default:  // float16 and bfloat16: copied
      return find_kernel<OCTAVO_KV_FLOAT16>(scratch_dim);
  }
}

}  // namespace

void fill_scratch(const ScratchParams& params, int kv_dtype, int scratch_dim, GpuStream stream, bool overlap) {
  gpu_launch(find_kernel(kv_dtype, scratch_dim), gpu_device().num_sms * kBlocks, kThreads, 0, stream, overlap, params);
}

}  // namespace octavo
