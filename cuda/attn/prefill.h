// Attention of many new tokens a sequence over paged KV: queries are the matrix product's wide operand, and a block keeps
// its rows while it walks the keys. Two kernels: a general one for every card and format (prefill_mma.cuh) and a fast one
// for compute capability 9.0 that reads 16-bit granules (prefill_wgmma.cuh), from the pages or from a scratch into which
// the keys of other formats were converted before (prefill_scratch.cu).
#pragma once

#include <cstdint>

#include "arch/gpu.h"
#include "attn/attention_params.h"
#include "attn/prefill_types.h"

namespace octavo {

struct PrefillParams : AttentionParams {
  int32_t head_dim;
  uint32_t group_reciprocal;
  const PrefillTile* tiles;  // of one list
  const int32_t* num_tiles;
  const uint8_t* scratch;      // [num_kv_heads][granules] 16-bit granules, or nullptr
  int64_t scratch_head_bytes;  // of one kv head
};

// What serves a shape on the current device.
struct PrefillShape {
  int32_t tile_rows[kPrefillLists];
  bool has_general;        // there is a general kernel for the format
  bool has_fast;           // there is a fast kernel; without a scratch it may have nothing to do
  bool fast_reads_pages;   // it reads the cache's pages as they are
  int32_t scratch_dim;     // head_dim of the scratch's granules, filled up with zeros
  int32_t scratch_granule_bytes;
};

PrefillShape prefill_shape(int kv_dtype, int head_dim);

// Enqueues the plan kernel: one block.
void make_prefill_plan(const PrefillPlanParams& params, GpuStream stream, bool overlap);

// Enqueues a list's kernel. max_tiles: no list is longer.
void run_prefill(const PrefillParams& params, int list, int kv_dtype, int max_tiles, GpuStream stream, bool overlap);

struct ScratchParams {
  const uint8_t* pages;
  KvGeometry kv;
  int32_t num_pages;
  const int32_t* page_table;  // [num_seqs][max_pages]
  int32_t max_pages;
  const ScratchSpan* spans;
  const int32_t* num_spans;
  uint8_t* scratch;
  int64_t head_bytes;  // of the scratch's part for one kv head
  int32_t head_dim;
};

// Enqueues the conversion of the plan's spans into granules of scratch_dim 16-bit elements a row: bfloat16 stays, every
// other format becomes f16.
void fill_scratch(const ScratchParams& params, int kv_dtype, int scratch_dim, GpuStream stream, bool overlap);

}  // namespace octavo
