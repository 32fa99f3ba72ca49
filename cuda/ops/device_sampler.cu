// Launches the device sampler: a fixed grid of blocks_per_row blocks a row.
#include "arch/hopper.cuh"
#include "arch/ptx.cuh"
#include "ops/device_sampler.h"
#include "ops/device_sampler_kernel.cuh"

namespace octavo {
namespace {

constexpr int kThreads = 512;
constexpr int kBlocksPerSm = 2;      // 64 registers a thread
constexpr int kLeastBlocksPerRow = 8;  // the largest cluster that every card with clusters offers
constexpr int kPartGranule = 128;    // parts begin on whole cache lines

// The blocks of one row and the memory they share (RowSampler's Group).
class RowGroup {
 public:
  __device__ RowGroup(const SampleKernelParams& p, int32_t row)
      : slots_(p.slots + static_cast<int64_t>(row) * 2 * p.blocks_per_row * kSlotWords),
        arrivals_(p.arrivals + row),
        size_(p.blocks_per_row),
        rank_(static_cast<int>(blockIdx.x) % p.blocks_per_row),
        cluster_(p.clusters != 0) {}

  __device__ int size() const { return size_; }
  __device__ int rank() const { return rank_; }
  __device__ uint64_t* own() { return slots_ + (turn_ * size_ + rank_) * kSlotWords; }
  __device__ const uint64_t* of(int rank) const { return slots_ + (turn_ * size_ + rank) * kSlotWords; }
  __device__ void turn() { turn_ ^= 1; }

  // Past the first-level cache, which does not see other blocks' writes.
  template <class T>
  __device__ static T read(const T* word) {
    return __ldcg(word);
  }

  // Waits until all blocks of the row are here and sees what they wrote.
  __device__ void sync() {
#if OCTAVO_BULK_COPY
    if (cluster_) {
      cluster_arrive();
      cluster_wait();
      return;
    }
#endif
    __syncthreads();
    if (threadIdx.x == 0) meet();
    __syncthreads();
  }

 private:
  // Arrivals are counted for ever; size_ is a power of two, so the count may wrap. Blocks start in the order of their
  // numbers and a row's follow each other, so those awaited here run already or start next.
  __device__ void meet() {
    __threadfence();
    const uint32_t before = atomicAdd(arrivals_, 1u);
    const uint32_t all = (before / static_cast<uint32_t>(size_) + 1) * static_cast<uint32_t>(size_);
    while (static_cast<int32_t>(load_acquire(arrivals_) - all) < 0) {
    }
    __threadfence();
  }

  uint64_t* slots_;
  uint32_t* arrivals_;
  int size_;
  int rank_;
  bool cluster_;
  int turn_ = 0;
};

// Calls body with the block's RowSampler.
template <class Body>
__device__ void with_row(const SampleKernelParams& p, Body body) {
  extern __shared__ __align__(16) uint8_t dynamic_smem[];
  gpu_wait_for_predecessor();
  gpu_release_successor();
  auto& shared = *reinterpret_cast<SamplerShared<kThreads>*>(dynamic_smem);
  float* part = reinterpret_cast<float*>(dynamic_smem + (sizeof shared + 15) / 16 * 16);
  const int32_t row = static_cast<int32_t>(blockIdx.x) / p.blocks_per_row;
  RowGroup group(p, row);
  RowSampler<kThreads, RowGroup> sampler(p, row, group, shared, part);
  body(sampler);
}

__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    sample_kernel(const __grid_constant__ SampleKernelParams p) {
  with_row(p, [](RowSampler<kThreads, RowGroup>& sampler) { sampler.run(); });
}

__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    score_kernel(const __grid_constant__ SampleKernelParams p) {
  with_row(p, [](RowSampler<kThreads, RowGroup>& sampler) { sampler.score(); });
}

int32_t part_size(int32_t vocab_size, int32_t blocks_per_row) {
  const int32_t even = (vocab_size + blocks_per_row - 1) / blocks_per_row;
  return (even + kPartGranule - 1) / kPartGranule * kPartGranule;
}

int64_t smem_bytes(int32_t vocab_size, int32_t blocks_per_row) {
  const int64_t shared = (sizeof(SamplerShared<kThreads>) + 15) / 16 * 16;
  return shared + int64_t{4} * part_size(vocab_size, blocks_per_row);
}

// The least power of two whose parts fit into shared memory.
int32_t count_blocks_per_row(int32_t vocab_size) {
  const GpuDevice& device = gpu_device();
  int32_t blocks = kLeastBlocksPerRow;
  while (smem_bytes(vocab_size, blocks) > device.smem_per_block) blocks *= 2;
  if (vocab_size > kMaxSampledVocab || blocks > device.num_sms) {
    fail(OCTAVO_UNSUPPORTED, "vocab_size must be at most %d for sampling on this card, found %d", kMaxSampledVocab,
         vocab_size);
  }
  return blocks;
}

struct SamplerLaunch {
  void (*kernel)(SampleKernelParams);
  int32_t num_rows;
  int32_t smem_bytes;
  bool overlap;
};

void launch(const SamplerLaunch& how, const SampleKernelParams& params, GpuStream stream) {
  cudaLaunchAttribute attributes[2] = {};
  int num_attributes = 0;
  if (params.clusters != 0) {
    attributes[num_attributes].id = cudaLaunchAttributeClusterDimension;
    attributes[num_attributes++].val.clusterDim = {static_cast<unsigned>(params.blocks_per_row), 1, 1};
  }
  if (how.overlap && gpu_device().compute_major >= 9) {
    attributes[num_attributes].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[num_attributes++].val.programmaticStreamSerializationAllowed = 1;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(how.num_rows * params.blocks_per_row));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(how.smem_bytes);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = static_cast<unsigned>(num_attributes);
  OCTAVO_GPU_CHECK(cudaLaunchKernelEx(&config, how.kernel, params));
}

void check_rows(int32_t num_rows, int32_t max_rows) {
  if (num_rows < 1 || num_rows > max_rows) {
    fail(OCTAVO_INVALID_ARGUMENT, "rows to sample must be 1 to %d, found %d", max_rows, num_rows);
  }
}

}  // namespace

//  workspace   [max_rows] arrivals, on 16 bytes | [max_rows][2][blocks_per_row] slots
DeviceSampler::DeviceSampler(const DeviceSamplerConfig& config)
    : config_(config), blocks_per_row_(count_blocks_per_row(config.vocab_size)) {
  smem_bytes_ = static_cast<int32_t>(smem_bytes(config.vocab_size, blocks_per_row_));
  clusters_ = config.use_clusters && gpu_device().compute_major >= 9 && blocks_per_row_ == kLeastBlocksPerRow;
  arrivals_bytes_ = (static_cast<size_t>(config.max_rows) * sizeof(uint32_t) + 15) / 16 * 16;
  const size_t slot_words = static_cast<size_t>(config.max_rows) * 2 * static_cast<size_t>(blocks_per_row_) * kSlotWords;
  gpu_allow_smem(sample_kernel, smem_bytes_);
  gpu_allow_smem(score_kernel, smem_bytes_);
  OCTAVO_GPU_CHECK(cudaMalloc(&workspace_, arrivals_bytes_ + slot_words * sizeof(uint64_t)));
  OCTAVO_GPU_CHECK(cudaMemset(workspace_, 0, arrivals_bytes_));
}

DeviceSampler::~DeviceSampler() { cudaFree(workspace_); }

// The parameters that do not depend on where the columns lie.
SampleKernelParams DeviceSampler::base_params(const float* logits, int64_t logits_stride) const {
  SampleKernelParams params = {};
  params.logits = logits;
  params.logits_stride = logits_stride;
  params.vocab_size = config_.vocab_size;
  params.part_size = part_size(config_.vocab_size, blocks_per_row_);
  params.blocks_per_row = blocks_per_row_;
  params.max_logprobs = config_.max_logprobs;
  params.arrivals = static_cast<uint32_t*>(workspace_);
  params.slots = reinterpret_cast<uint64_t*>(static_cast<uint8_t*>(workspace_) + arrivals_bytes_);
  params.clusters = clusters_ ? 1 : 0;
  return params;
}

void DeviceSampler::sample(const DeviceSampleArgs& args, GpuStream stream, bool overlap) {
  check_rows(args.num_rows, config_.max_rows);
  const octavo_step_layout& layout = *args.layout;
  const auto ints = [&](int32_t offset) { return reinterpret_cast<int32_t*>(args.step_buffer + offset); };
  const auto floats = [&](int32_t offset) { return reinterpret_cast<float*>(args.step_buffer + offset); };
  SampleKernelParams params = base_params(args.logits, args.logits_stride);
  params.rows = args.rows;
  params.temperature = floats(layout.temperature);
  params.top_k = ints(layout.top_k);
  params.top_p = floats(layout.top_p);
  params.min_p = floats(layout.min_p);
  params.repetition_penalty = floats(layout.repetition_penalty);
  params.presence_penalty = floats(layout.presence_penalty);
  params.frequency_penalty = floats(layout.frequency_penalty);
  params.seed = reinterpret_cast<const uint32_t*>(args.step_buffer + layout.seed);
  params.sample_index = ints(layout.sample_index);
  params.num_logprobs = ints(layout.num_logprobs);
  params.edit_begin = ints(layout.edit_begin);
  params.edits = {ints(layout.edit_token), ints(layout.edit_count), ints(layout.edit_flags), floats(layout.edit_bias), 0};
  params.sampled = ints(layout.sampled);
  params.sampled_logprob = floats(layout.sampled_logprob);
  params.top_token = ints(layout.top_token);
  params.top_logprob = floats(layout.top_logprob);
  params.num_masks = ints(layout.header) + 3;
  params.mask_index = ints(layout.mask_index);
  params.masks = reinterpret_cast<const uint32_t*>(args.step_buffer + layout.token_masks);
  params.mask_words = args.mask_words;
  launch({sample_kernel, args.num_rows, smem_bytes_, overlap}, params, stream);
}

void DeviceSampler::score(const DeviceScoreArgs& args, GpuStream stream, bool overlap) {
  check_rows(args.num_rows, config_.max_rows);
  const octavo_step_layout& layout = *args.layout;
  const auto ints = [&](int32_t offset) { return reinterpret_cast<int32_t*>(args.step_buffer + offset) + args.first; };
  const int64_t first_top = int64_t{args.first} * config_.max_logprobs;
  SampleKernelParams params = base_params(args.logits, args.logits_stride);
  params.score_token = ints(layout.score_token);
  params.num_logprobs = ints(layout.score_num_logprobs);
  params.sampled_logprob = reinterpret_cast<float*>(ints(layout.score_logprob));
  params.score_rank = ints(layout.score_rank);
  params.top_token = reinterpret_cast<int32_t*>(args.step_buffer + layout.score_top_token) + first_top;
  params.top_logprob = reinterpret_cast<float*>(args.step_buffer + layout.score_top_logprob) + first_top;
  launch({score_kernel, args.num_rows, smem_bytes_, overlap}, params, stream);
}

void DeviceSampler::draw(const float* logits, const SamplingParams& sampling, const LogitEdits& edits, int32_t num_draws,
                         int32_t* sampled, float* sampled_logprob, GpuStream stream) {
  check_rows(num_draws, config_.max_rows);
  SampleKernelParams params = base_params(logits, 0);
  params.edits = edits;
  params.draws = sampling;
  params.sampled = sampled;
  params.sampled_logprob = sampled_logprob;
  launch({sample_kernel, num_draws, smem_bytes_, false}, params, stream);
}

}  // namespace octavo
