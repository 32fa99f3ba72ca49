// Paged attention on the CPU: prefill and decode in one call, over the stored bytes.
#pragma once

#include <cstdint>

#include "arch/aligned_buffer.h"
#include "arch/thread_pool.h"
#include "octavo.h"

namespace octavo {

// Arguments as in octavo_paged_attention, all valid.
struct AttentionArgs {
  octavo_kv_shape shape;
  octavo_attention_config config;
  const uint8_t* pages;
  const float* q;           // [num_tokens][q_stride], q_stride >= num_q_heads * head_dim
  int64_t q_stride;
  const int32_t* query_len;   // [num_seqs]
  const int32_t* seq_len;     // [num_seqs]
  const int32_t* page_table;  // [num_seqs][max_pages_per_seq]
  const float* scales;        // [2][num_kv_heads] or nullptr
  const float* sinks;         // [num_q_heads] or nullptr
  float* out;                 // [num_tokens][num_q_heads][head_dim]
  float* lse;                 // [num_tokens][num_q_heads] or nullptr
};

class AttentionPlan;

// Scratch memory of attention, kept between calls, whose size is bounded by num_threads, head_dim and the longest
// sequence's number of splits, never by query_len x seq_len. The system commits it as it is touched.
struct AttentionScratch {
  AlignedBuffer memory;

  // Takes memory for plans of so many floats of partials, if there is less.
  void reserve(int32_t num_threads, int32_t head_dim, int64_t partial_floats);
};

// Computes out (and lse). The result of a query depends, bit for bit, only on its q, the keys and values it sees and the
// format: not on batch-mates, chunking, page order or the number of threads. plan: made for the same lengths, heads,
// window and number of threads; good for any number of calls, one at a time.
void paged_attention(const AttentionArgs& args, AttentionPlan& plan, AttentionScratch& scratch, ThreadPool& threads);

}  // namespace octavo
