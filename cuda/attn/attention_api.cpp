// octavo_paged_attention: checks its arguments, the rest is in attention.h.
#include <memory>

#include "arch/cpu.h"
#include "arch/error.h"
#include "attn/attention.h"
#include "attn/attention_checks.h"
#include "attn/attention_plan.h"
#include "kv/checks.h"
#include "kv/pages.h"

namespace octavo {
namespace {

void check_config(const octavo_kv_shape& shape, const octavo_attention_config& config) {
  check_attention_config(shape, config);
  if (config.q_dtype != OCTAVO_F32) {
    fail(OCTAVO_UNSUPPORTED, "the CPU build takes q and out as OCTAVO_F32 (0), q_dtype is %d", config.q_dtype);
  }
}

// The lengths of sequence seq and the pages they need.
void check_sequence(const AttentionArgs& args, int32_t seq) {
  const int32_t query_len = args.query_len[seq];
  const int32_t seq_len = args.seq_len[seq];
  if (query_len < 1) fail(OCTAVO_INVALID_ARGUMENT, "query_len of sequence %d must be at least 1, found %d", seq, query_len);
  if (seq_len < query_len) {
    fail(OCTAVO_INVALID_ARGUMENT, "seq_len of sequence %d must be at least its query_len %d, found %d", seq, query_len,
         seq_len);
  }
  const int64_t num_pages = (int64_t{seq_len} + args.shape.page_size - 1) / args.shape.page_size;
  if (num_pages > args.config.max_pages_per_seq) {
    fail(OCTAVO_INVALID_ARGUMENT, "seq_len of sequence %d needs %lld pages, more than max_pages_per_seq: %d", seq,
         static_cast<long long>(num_pages), args.config.max_pages_per_seq);
  }
  const int32_t* pages = args.page_table + int64_t{seq} * args.config.max_pages_per_seq;
  for (int64_t i = 0; i < num_pages; ++i) {
    if (pages[i] < 0 || pages[i] >= args.shape.num_pages) {
      fail(OCTAVO_INVALID_ARGUMENT, "page %lld of sequence %d must be 0 to %d, found %d", static_cast<long long>(i), seq,
           args.shape.num_pages - 1, pages[i]);
    }
  }
}

void check_sequences(const AttentionArgs& args) {
  int64_t num_tokens = 0;
  for (int32_t seq = 0; seq < args.config.num_seqs; ++seq) {
    check_sequence(args, seq);
    num_tokens += args.query_len[seq];
  }
  if (num_tokens != args.config.num_tokens) {
    fail(OCTAVO_INVALID_ARGUMENT, "query_len must add up to num_tokens %d, found %lld", args.config.num_tokens,
         static_cast<long long>(num_tokens));
  }
}

// What a calling thread keeps between calls: the ABI function has no handle to keep it in.
struct Kept {
  std::unique_ptr<ThreadPool> threads;
  AttentionPlan plan;
  AttentionScratch scratch;

  ThreadPool& pool(int num_threads) {
    if (threads == nullptr || threads->size() != num_threads) threads = std::make_unique<ThreadPool>(num_threads);
    return *threads;
  }
};

}  // namespace
}  // namespace octavo

extern "C" int32_t octavo_paged_attention(const octavo_kv_shape* shape, const octavo_attention_config* config,
                                          const uint8_t* pages, const float* q, const int32_t* query_len,
                                          const int32_t* seq_len, const int32_t* page_table, const float* scales,
                                          const float* sinks, float* out, float* lse) {
  return octavo::guard([&] {
    octavo::check_not_null("shape", shape);
    octavo::check_not_null("config", config);
    octavo::check_kv_shape(*shape);
    octavo::check_config(*shape, *config);
    octavo::check_not_null("pages", pages);
    octavo::check_not_null("q", q);
    octavo::check_not_null("query_len", query_len);
    octavo::check_not_null("seq_len", seq_len);
    octavo::check_not_null("page_table", page_table);
    octavo::check_not_null("out", out);
    octavo::check_scales_allowed(shape->kv_dtype, scales);
    octavo::check_scales(scales, shape->num_kv_heads);
    octavo::AttentionArgs args{};
    args.shape = *shape;
    args.config = *config;
    args.pages = pages;
    args.q = q;
    args.q_stride = int64_t{config->num_q_heads} * shape->head_dim;
    args.query_len = query_len;
    args.seq_len = seq_len;
    args.page_table = page_table;
    args.scales = scales;
    args.sinks = sinks;
    args.out = out;
    args.lse = lse;
    octavo::check_sequences(args);
    static thread_local octavo::Kept kept;
    octavo::ThreadPool& threads = kept.pool(octavo::resolve_num_threads(config->num_threads));
    kept.plan.make(args, threads.size());
    octavo::paged_attention(args, kept.plan, kept.scratch, threads);
  });
}
