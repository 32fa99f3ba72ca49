#include "model/device_engine.h"

#include <algorithm>
#include <cstring>

#include "model/device_turn.h"
#include "model/kv_dtypes.h"
#include "model/pack_step.h"
#include "model/step_buffer.h"

namespace octavo {
namespace {

const octavo_engine_config& check_config(const DeviceModel& model, const octavo_engine_config& config) {
  check_engine_config(config);
  check_mask_words(config, model.config().vocab_size);
  // Refuses what no attention kernel takes before anything large is allocated.
  const int32_t group = model.config().num_q_heads / model.config().num_kv_heads;
  for (int32_t kv = 0; kv < num_kv_dtypes(config); ++kv) {
    decode_shape(kv_dtype_of(config, kv), model.config().head_dim, group, 1);
  }
  return config;
}

bool has_logprobs(const StepView& step) {
  for (int32_t s = 0; s < step.num_seqs(); ++s) {
    if (step.sample[s] != 0 && step.num_logprobs[s] > 0) return true;
  }
  return false;
}

}  // namespace

// Up to 8 by doubling, then in steps of 8, 32, 64 and 256: a bucket is at most a third larger than the step, and by much
// less where steps are bound by arithmetic.
std::vector<int32_t> list_buckets(int32_t largest) {
  std::vector<int32_t> buckets;
  for (int32_t bucket = 1; bucket < largest;) {
    buckets.push_back(bucket);
    bucket += bucket < 8 ? bucket : bucket < 64 ? 8 : bucket < 256 ? 32 : bucket < 1024 ? 64 : 256;
  }
  buckets.push_back(largest);
  return buckets;
}

DeviceEngine::DeviceEngine(std::shared_ptr<const DeviceModel> model, const octavo_engine_config& config,
                           const KvValues& kv_values)
    : model_(std::move(model)),
      config_(check_config(*model_, config)),
      layout_(make_step_layout(config)),
      scratch_(*model_, config, layout_),
      kv_(model_->config(), model_->layers(), config, kv_values),
      host_pages_(kv_.page_bytes(), config.num_host_pages, config.num_pages),
      forward_(open_forward()),
      sampler_({config.max_samples, model_->config().vocab_size, config.max_logprobs}),
      page_writer_(static_cast<size_t>(config.num_pages), -1) {
  for (Slot& slot : slots_) {
    slot.packed = PinnedMemory(static_cast<size_t>(max_packed_bytes(config, layout_)));
    slot.outputs = PinnedMemory(static_cast<size_t>(layout_.total_bytes) - static_cast<size_t>(layout_.sampled));
  }
  for (int32_t layer = 0; layer < model_->config().num_layers; ++layer) {
    if (!kv_.has_k_mean(layer)) continue;
    check_mean_unseen(model_->config(), layer, model_->layer(layer).attn_sinks != nullptr);
  }
  warm_up();
  capture_graphs();
  kv_.clear(stream_.get());
  stream_.wait();
}

// Its products are tried on the card, on the default stream.
DeviceForward DeviceEngine::open_forward() const {
  const DeviceTurn turn(this, nullptr);
  return DeviceForward(*model_, config_, scratch_, kv_);
}

DeviceEngine::~DeviceEngine() {
  cudaStreamSynchronize(stream_.get());
  DeviceTurn::forget(this);
}

// Runs body, which speaks to the device. A device that has failed once is not asked again.
template <class Body>
void DeviceEngine::on_device(Body&& body) {
  if (!failure_.empty()) fail(OCTAVO_DEVICE, "the device failed before: %s", failure_.c_str());
  try {
    body();
  } catch (const Error& error) {
    if (error.status() != OCTAVO_INVALID_ARGUMENT) failure_ = error.what();
    throw;
  }
}

void DeviceEngine::submit(uint8_t* step_buffer, double size_bytes) {
  check_step_buffer(layout_, step_buffer, size_bytes);
  queue_.check_submit(step_buffer);
  const StepView step = view_step_buffer(layout_, step_buffer);
  check_step(step, {config_, model_->config().vocab_size, model_->config().max_model_len, queue_.last_num_rows()},
             page_writer_);
  on_device([&] { enqueue(step, slots_[next_slot_]); });
  num_tokens_ += step.num_tokens();
  next_slot_ = (next_slot_ + 1) % StepQueue::kMaxSteps;
  queue_.submit(step_buffer, step);
}

void DeviceEngine::enqueue(const StepView& step, Slot& slot) {
  const GpuStream stream = stream_.get();
  host_pages_.hold_back(step, config_, stream);
  slot.num_rows = step.count_rows();
  slot.num_scores = step.num_scores();
  slot.has_logprobs = has_logprobs(step);
  const int64_t packed_bytes = pack_step(step, config_, layout_, slot.packed.as<uint8_t>());
  DeviceTurn turn(this, stream);
  OCTAVO_GPU_CHECK(cudaMemcpyAsync(scratch_.packed, slot.packed.as<uint8_t>(), static_cast<size_t>(packed_bytes),
                                   cudaMemcpyHostToDevice, stream));
  const KvGroups groups = list_kv_groups(step);
  const bool counts_kv = kv_.calculated().is_counting() || kv_.histograms() != nullptr;
  const BucketGraph* graph = counts_kv ? nullptr : find_graph(step, groups);
  if (graph != nullptr) {
    graph->graph.launch(stream);
  } else {
    const int32_t longest = *std::max_element(step.query_len, step.query_len + step.num_seqs());
    enqueue_kernels({step.num_seqs(), step.num_tokens(), slot.num_rows, slot.num_scores, longest, counts_kv, groups});
    kv_.end_step();
  }
  copy_outputs(slot);
  slot.done.record(stream);
  turn.end(slot.done);
}

// The smallest graph for a step of decodes in one KV dtype, or nullptr. Graphs score nothing.
const DeviceEngine::BucketGraph* DeviceEngine::find_graph(const StepView& step, const KvGroups& groups) const {
  if (step.num_tokens() != step.num_seqs() || groups.count > 1 || step.num_scores() > 0) return nullptr;
  const auto found = std::find_if(graphs_.begin(), graphs_.end(), [&](const BucketGraph& one) {
    return one.kv_index == groups.group[0].kv_index && one.num_seqs >= step.num_seqs();
  });
  return found == graphs_.end() ? nullptr : &*found;
}

// The output tables up to the last one that the step fills.
void DeviceEngine::copy_outputs(Slot& slot) {
  if (slot.num_rows == 0 && slot.num_scores == 0) return;
  int32_t end = slot.has_logprobs ? layout_.score_logprob : layout_.top_token;
  if (slot.num_scores > 0) end = static_cast<int32_t>(layout_.total_bytes);
  OCTAVO_GPU_CHECK(cudaMemcpyAsync(slot.outputs.as<uint8_t>(), scratch_.step_buffer + layout_.sampled,
                                   static_cast<size_t>(end - layout_.sampled), cudaMemcpyDeviceToHost, stream_.get()));
}

// Scores first: the logits that stay are the rows'.
void DeviceEngine::enqueue_kernels(const DeviceStep& step) {
  const GpuStream stream = stream_.get();
  forward_.run_layers(step, stream);
  enqueue_scores(step.num_scores);
  if (step.num_rows == 0) return;
  forward_.compute_logits(scratch_.tables.row_token, step.num_rows, stream);
  sampler_.sample({forward_.logits(), forward_.logits_stride(), scratch_.tables.rows, step.num_rows, &layout_,
                   scratch_.step_buffer, config_.token_mask_words},
                  stream, true);
}

// As many at a time as there are rows of logits.
void DeviceEngine::enqueue_scores(int32_t num_scores) {
  const int32_t* index = reinterpret_cast<const int32_t*>(scratch_.step_buffer + layout_.score_index);
  for (int32_t first = 0; first < num_scores; first += config_.max_samples) {
    const int32_t num_rows = std::min(num_scores - first, config_.max_samples);
    forward_.compute_logits(index + first, num_rows, stream_.get());
    sampler_.score({forward_.logits(), forward_.logits_stride(), first, num_rows, &layout_, scratch_.step_buffer},
                   stream_.get(), true);
  }
}

void DeviceEngine::finish(uint8_t* step_buffer) {
  queue_.check_finish(step_buffer);
  const Slot& slot = slots_[oldest_slot_];
  on_device([&] { slot.done.wait(); });
  read_outputs(slot, step_buffer);
  oldest_slot_ = (oldest_slot_ + 1) % StepQueue::kMaxSteps;
  queue_.finish(step_buffer);
}

//   slot.outputs   | sampled | sampled_logprob | top_token | top_logprob | score_logprob | ... |   as in the step buffer
void DeviceEngine::read_outputs(const Slot& slot, uint8_t* step_buffer) const {
  const StepView step = view_step_buffer(layout_, step_buffer);
  const size_t num_rows = static_cast<size_t>(slot.num_rows);
  const size_t num_top = num_rows * static_cast<size_t>(config_.max_logprobs);
  const auto output = [&](int32_t offset) { return slot.outputs.as<uint8_t>() + (offset - layout_.sampled); };
  std::memcpy(step.sampled, output(layout_.sampled), num_rows * 4);
  std::memcpy(step.sampled_logprob, output(layout_.sampled_logprob), num_rows * 4);
  if (slot.has_logprobs) {
    std::memcpy(step.top_token, output(layout_.top_token), num_top * 4);
    std::memcpy(step.top_logprob, output(layout_.top_logprob), num_top * 4);
  } else {
    std::fill_n(step.top_token, num_top, -1);
    std::fill_n(step.top_logprob, num_top, 0.0f);
  }
  const size_t num_scores = static_cast<size_t>(slot.num_scores);
  const size_t num_score_tops = num_scores * static_cast<size_t>(config_.max_logprobs);
  std::memcpy(step.score_logprob, output(layout_.score_logprob), num_scores * 4);
  std::memcpy(step.score_rank, output(layout_.score_rank), num_scores * 4);
  std::memcpy(step.score_top_token, output(layout_.score_top_token), num_score_tops * 4);
  std::memcpy(step.score_top_logprob, output(layout_.score_top_logprob), num_score_tops * 4);
}

void DeviceEngine::copy_logits(int32_t row, float* logits) {
  check_row(row, queue_.last_num_rows());
  on_device([&] {
    OCTAVO_GPU_CHECK(cudaMemcpyAsync(logits, forward_.logits() + row * forward_.logits_stride(),
                                     sizeof(float) * static_cast<size_t>(model_->config().vocab_size),
                                     cudaMemcpyDeviceToHost, stream_.get()));
    stream_.wait();
  });
}

void DeviceEngine::copy_kv_scales(float* scales) {
  on_device([&] { kv_.copy_scales(scales, stream_.get()); });
}

void DeviceEngine::copy_kv_stats(double* stats, double* num_tokens) {
  if (config_.kv_stats != OCTAVO_KV_STATS_ERRORS) fail_uncounted("OCTAVO_KV_STATS_ERRORS", config_);
  on_device([&] { kv_.copy_stats(stats, stream_.get()); });
  *num_tokens = num_tokens_;
}

void DeviceEngine::copy_kv_histograms(float* absmax, double* histogram, double* k_sum) {
  if (kv_.histograms() == nullptr) fail_uncounted("OCTAVO_KV_STATS_HISTOGRAMS", config_);
  on_device([&] { kv_.histograms()->copy(absmax, histogram, k_sum, stream_.get()); });
}

void DeviceEngine::end_kv_scales() {
  on_device([&] { kv_.freeze_scales(stream_.get()); });
}

void DeviceEngine::transfer(const Transfer& transfer) {
  check_transfer(config_, transfer);
  on_device([&] { host_pages_.enqueue(transfer, kv_); });
}

octavo_transfer_stats DeviceEngine::transfer_stats() {
  octavo_transfer_stats stats = {};
  on_device([&] { stats = host_pages_.stats(); });
  return stats;
}

void DeviceEngine::copy_host_page(int32_t host_page, uint8_t* bytes, double size_bytes) {
  check_host_page(config_, host_page, size_bytes, kv_.page_bytes());
  on_device([&] { std::copy_n(host_pages_.page(host_page), kv_.page_bytes(), bytes); });
}

uint64_t DeviceEngine::page_checksum(int32_t page) {
  check_cache_page(config_, page);
  uint64_t checksum = 0;
  on_device([&] {
    host_pages_.wait();
    checksum = kv_.page_checksum(page, stream_.get());
  });
  return checksum;
}

// The largest steps, so that every workspace has its size: few long sequences, many, and many of two tokens, which cut the
// attention's work into the most rows.
void DeviceEngine::warm_up() {
  for (int32_t kv_index = 0; kv_index < num_kv_dtypes(config_); ++kv_index) warm_up(kv_index);
}

void DeviceEngine::warm_up(int32_t kv_index) {
  const int32_t tokens = config_.max_num_batched_tokens;
  const int64_t page_tokens = int64_t{config_.max_pages_per_seq} * page_size_of(config_, kv_index);
  const int32_t longest = static_cast<int32_t>(std::min<int64_t>(page_tokens, model_->config().max_model_len));
  const int32_t most = std::min(config_.max_num_seqs, tokens);
  const int32_t fewest = std::min((tokens - 1) / longest + 1, most);
  warm_up(kv_index, fewest, std::min<int64_t>(tokens, int64_t{fewest} * longest));
  warm_up(kv_index, most, std::min<int64_t>(tokens, int64_t{most} * longest));
  const int32_t pairs = std::max(std::min(most, tokens / 2), 1);
  warm_up(kv_index, pairs, std::min(tokens, 2 * pairs));
}

// One step of num_seqs sequences that share num_tokens; all of their pages are page 0, which is cleared afterwards.
void DeviceEngine::warm_up(int32_t kv_index, int32_t num_seqs, int32_t num_tokens) {
  std::vector<uint64_t> memory(static_cast<size_t>(layout_.total_bytes) / 8 + 1);
  uint8_t* buffer = reinterpret_cast<uint8_t*>(memory.data());
  const auto ints = [&](int32_t offset) { return reinterpret_cast<int32_t*>(buffer + offset); };
  const auto floats = [&](int32_t offset) { return reinterpret_cast<float*>(buffer + offset); };
  ints(layout_.header)[0] = num_seqs;
  ints(layout_.header)[1] = num_tokens;
  const int32_t num_scores = std::min(num_tokens, config_.max_scores);
  ints(layout_.header)[4] = num_scores;
  for (int32_t x = 0; x < num_scores; ++x) {
    ints(layout_.score_index)[x] = x;
    ints(layout_.score_num_logprobs)[x] = config_.max_logprobs;
  }
  int32_t rows_left = config_.max_samples;
  for (int32_t s = 0; s < num_seqs; ++s) {
    const int32_t length = num_tokens / num_seqs + (s < num_tokens % num_seqs ? 1 : 0);
    ints(layout_.query_len)[s] = ints(layout_.seq_len)[s] = length;
    ints(layout_.kv_index)[s] = kv_index;
    ints(layout_.sample)[s] = std::min(length, rows_left);
    rows_left -= ints(layout_.sample)[s];
    ints(layout_.num_logprobs)[s] = config_.max_logprobs;
    floats(layout_.temperature)[s] = 1;
    floats(layout_.top_p)[s] = 0.9f;
    floats(layout_.repetition_penalty)[s] = 1;
  }
  const StepView step = view_step_buffer(layout_, buffer);
  const DeviceTurn turn(this, stream_.get());
  const int64_t packed_bytes = pack_step(step, config_, layout_, slots_[0].packed.as<uint8_t>());
  OCTAVO_GPU_CHECK(cudaMemcpyAsync(scratch_.packed, slots_[0].packed.as<uint8_t>(), static_cast<size_t>(packed_bytes),
                                   cudaMemcpyHostToDevice, stream_.get()));
  const int32_t longest = *std::max_element(step.query_len, step.query_len + num_seqs);
  enqueue_kernels({num_seqs, num_tokens, step.count_rows(), num_scores, longest, false, list_kv_groups(step)});
  stream_.wait();  // throws what the turn's end would not
}

// Every graph runs once, on a step without sequences.
void DeviceEngine::capture_graphs() {
  const GpuStream stream = stream_.get();
  const int32_t largest = std::min({config_.max_num_seqs, config_.max_num_batched_tokens, config_.max_samples});
  for (int32_t kv_index = 0; kv_index < num_kv_dtypes(config_); ++kv_index) {
    for (const int32_t bucket : list_buckets(largest)) {
      const KvGroups all = {{{kv_index, 0, bucket, 0, bucket, 1, 1, 0, 0}}, 1};
      const auto enqueue = [&] { enqueue_kernels({bucket, bucket, bucket, 0, 1, false, all}); };
      graphs_.push_back({kv_index, bucket, GpuGraph(stream, enqueue)});
    }
  }
  const DeviceTurn turn(this, stream);
  OCTAVO_GPU_CHECK(cudaMemsetAsync(scratch_.packed, 0, sizeof(PackedStep), stream));
  for (const BucketGraph& one : graphs_) one.graph.launch(stream);
  stream_.wait();
}

std::unique_ptr<EngineBase> open_engine(const octavo_model& model, const octavo_engine_config& config,
                                        const KvValues& kv_values) {
  return std::make_unique<DeviceEngine>(finished_device_model(model), config, kv_values);
}

// Measured: an engine with the fewest pages is opened, used and closed.
double engine_scratch_bytes(const octavo_model& model, const octavo_engine_config& config) {
  octavo_engine_config small = config;
  small.num_pages = 1;
  small.num_host_pages = 0;
  const auto free_memory = [] {
    size_t free_bytes = 0;
    size_t total_bytes = 0;
    OCTAVO_GPU_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
    return static_cast<double>(free_bytes);
  };
  const double before = free_memory();
  const DeviceEngine engine(finished_device_model(model), small, {nullptr, nullptr});
  return before - free_memory();
}

}  // namespace octavo
