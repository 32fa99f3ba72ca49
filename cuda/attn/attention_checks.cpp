#include "attn/attention_checks.h"

#include <cmath>

#include "arch/error.h"

namespace octavo {
namespace {

constexpr int32_t kMaxHeads = 65536;

void check_least(const char* name, int32_t value, int32_t least) {
  if (value < least) fail(OCTAVO_INVALID_ARGUMENT, "%s must be at least %d, found %d", name, least, value);
}

}  // namespace

void check_attention_config(const octavo_kv_shape& shape, const octavo_attention_config& config) {
  check_least("num_seqs", config.num_seqs, 1);
  check_least("num_tokens", config.num_tokens, 1);
  check_least("max_pages_per_seq", config.max_pages_per_seq, 1);
  check_least("sliding_window", config.sliding_window, 0);
  check_least("max_query_len", config.max_query_len, 0);
  if (config.num_q_heads < 1 || config.num_q_heads > kMaxHeads || config.num_q_heads % shape.num_kv_heads != 0) {
    fail(OCTAVO_INVALID_ARGUMENT, "num_q_heads must be a multiple of num_kv_heads %d up to %d, found %d",
         shape.num_kv_heads, kMaxHeads, config.num_q_heads);
  }
  if (!std::isfinite(config.softmax_scale) || !(config.softmax_scale > 0)) {
    fail(OCTAVO_INVALID_ARGUMENT, "softmax_scale must be finite and above 0, found %g",
         static_cast<double>(config.softmax_scale));
  }
  if (!std::isfinite(config.logit_softcap) || config.logit_softcap < 0) {
    fail(OCTAVO_INVALID_ARGUMENT, "logit_softcap must be finite and not negative, found %g",
         static_cast<double>(config.logit_softcap));
  }
  if (config.reuse_plan != 0 && config.reuse_plan != 1) {
    fail(OCTAVO_INVALID_ARGUMENT, "reuse_plan must be 0 or 1, found %d", config.reuse_plan);
  }
  if (config.reserved != 0) fail(OCTAVO_INVALID_ARGUMENT, "reserved must be 0, found %d", config.reserved);
}

}  // namespace octavo
