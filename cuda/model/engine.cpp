#include "model/engine.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "arch/cpu.h"
#include "arch/error.h"
#include "arch/memory.h"
#include "kv/page_checksum.h"

namespace octavo {
namespace {

const octavo_engine_config& check_config(const Model& model, const octavo_engine_config& config) {
  if (!model.is_finished()) fail(OCTAVO_INVALID_ARGUMENT, "the model is not finished");
  check_engine_config(config);
  check_mask_words(config, model.config().vocab_size);
  // Memory is reserved without being committed, so a cache larger than the machine would fail only when it fills.
  const PageLayout layout(model.config(), model.layers(), config);
  const double cache_bytes = static_cast<double>(layout.size_bytes());
  const double host_bytes = static_cast<double>(layout.page_bytes()) * config.num_host_pages;
  const double memory_bytes = available_memory().total_bytes;
  if (cache_bytes + host_bytes > memory_bytes) {
    fail(OCTAVO_OUT_OF_MEMORY, "a KV cache of %d pages and %d host pages need %.0f bytes, but there are %.0f",
         config.num_pages, config.num_host_pages, cache_bytes + host_bytes, memory_bytes);
  }
  return config;
}

}  // namespace

Engine::Engine(std::shared_ptr<const Model> model, const octavo_engine_config& config, const KvValues& kv_values)
    : model_(std::move(model)),
      config_(check_config(*model_, config)),
      layout_(make_step_layout(config)),
      kv_(model_->config(), model_->layers(), config, kv_values),
      host_pages_(kv_.page_bytes(), config.num_host_pages),
      scratch_(model_->config(), config),
      threads_(resolve_num_threads(config.num_threads)),
      attention_(model_->config(), model_->layers(), config, threads_.size()),
      page_writer_(static_cast<size_t>(config.num_pages), -1) {
  for (int32_t i = 0; i < threads_.size(); ++i) samplers_.emplace_back(model_->config().vocab_size);
  rows_.reserve(static_cast<size_t>(config.max_samples));
  row_token_.reserve(static_cast<size_t>(config.max_samples));
  sampled_.reserve(static_cast<size_t>(config.max_samples));
  tokens_.resize(static_cast<size_t>(config.max_num_batched_tokens));
  const octavo_model_config& shape = model_->config();
  for (int32_t layer = 0; layer < shape.num_layers; ++layer) {
    if (!kv_.has_k_mean(layer)) continue;
    check_mean_unseen(shape, layer, !model_->weights().layers[static_cast<size_t>(layer)].attn_sinks.empty());
  }
  if (config.kv_stats == OCTAVO_KV_STATS_ERRORS) {
    kv_stats_ = std::make_unique<KvStats>(shape.num_layers, shape.num_kv_heads);
  } else if (config.kv_stats == OCTAVO_KV_STATS_HISTOGRAMS) {
    kv_histograms_ = std::make_unique<KvHistograms>(shape.num_layers, shape.num_kv_heads, shape.head_dim);
  }
}

void Engine::submit(uint8_t* step_buffer, double size_bytes) {
  check_step_buffer(layout_, step_buffer, size_bytes);
  queue_.check_submit(step_buffer);
  StepView step = view_step_buffer(layout_, step_buffer);
  check_step(step, {config_, model_->config().vocab_size, model_->config().max_model_len, queue_.last_num_rows()},
             page_writer_);
  resolve_tokens(step);
  list_rows(step);
  const ForwardContext context = {*model_,
                                  step,
                                  list_kv_groups(step),
                                  config_.max_pages_per_seq,
                                  kv_,
                                  kv_stats_.get(),
                                  kv_histograms_.get(),
                                  scratch_,
                                  attention_,
                                  threads_};
  run_layers(context);
  if (kv_stats_ != nullptr) kv_stats_->add_tokens(step.num_tokens());
  score(step, context);
  compute_logits(context, row_token_.data(), static_cast<int32_t>(row_token_.size()));
  sample(step);
  sampled_.assign(step.sampled, step.sampled + rows_.size());
  queue_.submit(step_buffer, step);
}

void Engine::list_rows(const StepView& step) {
  rows_.clear();
  row_token_.clear();
  int32_t end = 0;  // first token after the sequence
  for (int32_t s = 0; s < step.num_seqs(); ++s) {
    end += step.query_len[s];
    for (int32_t i = 0; i < step.sample[s]; ++i) {
      rows_.push_back({s, i});
      row_token_.push_back(end - step.sample[s] + i);
    }
  }
}

// Tokens below 0 become those that the step before sampled.
void Engine::resolve_tokens(StepView& step) {
  for (int32_t t = 0; t < step.num_tokens(); ++t) {
    const int32_t token = step.tokens[t];
    tokens_[static_cast<size_t>(t)] = token >= 0 ? token : std::max(sampled_[static_cast<size_t>(-(token + 1))], 0);
  }
  step.tokens = tokens_.data();
}

// As many at a time as there are rows of logits.
void Engine::score(const StepView& step, const ForwardContext& context) {
  for (int32_t begin = 0; begin < step.num_scores(); begin += config_.max_samples) {
    const int32_t num_rows = std::min(step.num_scores() - begin, config_.max_samples);
    compute_logits(context, step.score_index + begin, num_rows);
    threads_.run(num_rows, [&](int64_t row, int thread) {
      score_row(step, begin + static_cast<int32_t>(row), scratch_.logits.row(row),
                samplers_[static_cast<size_t>(thread)]);
    });
  }
}

void Engine::score_row(const StepView& step, int32_t score, const float* logits, Sampler& sampler) const {
  const int32_t token = step.score_token[score];
  const int64_t first = int64_t{score} * config_.max_logprobs;
  std::fill_n(step.score_top_token + first, config_.max_logprobs, -1);
  std::fill_n(step.score_top_logprob + first, config_.max_logprobs, 0.0f);
  step.score_logprob[score] = -std::numeric_limits<float>::infinity();
  step.score_rank[score] = 1;
  if (!sampler.prepare_plain(logits)) return;
  const double log_sum_exp = sampler.log_sum_exp();
  step.score_logprob[score] = sampler.log_probability(token, log_sum_exp);
  step.score_rank[score] = sampler.rank(token);
  sampler.top_log_probabilities(step.score_num_logprobs[score], log_sum_exp, step.score_top_token + first,
                                step.score_top_logprob + first);
}

void Engine::sample(const StepView& step) {
  const int64_t num_rows = static_cast<int64_t>(rows_.size());
  std::fill_n(step.sampled, num_rows, -1);
  std::fill_n(step.sampled_logprob, num_rows, 0.0f);
  std::fill_n(step.top_token, num_rows * config_.max_logprobs, -1);
  std::fill_n(step.top_logprob, num_rows * config_.max_logprobs, 0.0f);
  threads_.run(num_rows, [&](int64_t row, int thread) {
    sample_row(step, static_cast<int32_t>(row), samplers_[static_cast<size_t>(thread)]);
  });
}

// Leaves -1 where no logit is a number: one sequence's broken weights (an unused token's embedding, say) are no fault of
// the others.
void Engine::sample_row(const StepView& step, int32_t row, Sampler& sampler) const {
  const auto [s, index] = rows_[static_cast<size_t>(row)];
  const SamplingParams params = step.sampling_params(s);
  if (!sampler.prepare(scratch_.logits.row(row), params, step.logit_edits(s),
                       step.token_mask(row, config_.token_mask_words))) return;
  const int32_t token = sampler.draw(params.sample_index + index);
  step.sampled[row] = token;
  if (step.num_logprobs[s] >= 0) {
    const double log_sum_exp = sampler.log_sum_exp();
    const int64_t first = int64_t{row} * config_.max_logprobs;
    step.sampled_logprob[row] = sampler.log_probability(token, log_sum_exp);
    sampler.top_log_probabilities(step.num_logprobs[s], log_sum_exp, step.top_token + first,
                                  step.top_logprob + first);
  }
}

void Engine::copy_kv_stats(double* stats, double* num_tokens) {
  if (kv_stats_ == nullptr) fail_uncounted("OCTAVO_KV_STATS_ERRORS", config_);
  kv_stats_->copy(stats, num_tokens);
}

void Engine::copy_kv_histograms(float* absmax, double* histogram, double* k_sum) {
  if (kv_histograms_ == nullptr) fail_uncounted("OCTAVO_KV_STATS_HISTOGRAMS", config_);
  kv_histograms_->copy(absmax, histogram, k_sum);
}

void Engine::copy_logits(int32_t row, float* logits) {
  check_row(row, static_cast<int32_t>(rows_.size()));
  std::copy_n(scratch_.logits.row(row), scratch_.logits.width(), logits);
}

void Engine::transfer(const Transfer& transfer) {
  check_transfer(config_, transfer);
  host_pages_.run(transfer, kv_);
}

void Engine::copy_host_page(int32_t host_page, uint8_t* bytes, double size_bytes) {
  check_host_page(config_, host_page, size_bytes, kv_.page_bytes());
  std::copy_n(host_pages_.page(host_page), kv_.page_bytes(), bytes);
}

uint64_t Engine::page_checksum(int32_t page) {
  check_cache_page(config_, page);
  const uint8_t* bytes = kv_.page(page);
  uint64_t checksum = 0;
  for (int64_t place = 0; place < kv_.page_bytes() / 8; ++place) {
    uint64_t word;
    std::memcpy(&word, bytes + 8 * place, sizeof word);
    checksum += checksum_share(word, place);
  }
  return checksum;
}

std::unique_ptr<EngineBase> open_engine(const octavo_model& model, const octavo_engine_config& config,
                                        const KvValues& kv_values) {
  return std::make_unique<Engine>(cpu_model(model), config, kv_values);
}

double engine_scratch_bytes(const octavo_model& model, const octavo_engine_config& config) {
  check_engine_config(config);
  return static_cast<double>(Scratch::size_bytes(model.model->config(), config));
}

}  // namespace octavo
