// The ABI of GPU builds: the library itself and the single kernels (octavo.h).
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "arch/gpu.h"
#include "attn/attention_checks.h"
#include "attn/paged_attention.h"
#include "gemm/single_matmul.h"
#include "kv/append.h"
#include "kv/checks.h"
#include "kv/convert.h"
#include "kv/format.h"
#include "kv/shape.h"
#include "octavo.h"
#include "ops/device_sampler.h"
#include "ops/sampling_params.h"

namespace octavo {
namespace {

constexpr int32_t kDrawsPerLaunch = 128;

int current_device() {
  int device = 0;
  OCTAVO_GPU_CHECK(cudaGetDevice(&device));
  return device;
}

// What the calling thread set and keeps: the single kernels have no handle to keep it in.
struct ThreadState {
  GpuStream stream = nullptr;
  std::map<int, std::unique_ptr<AttentionWorkspace>> workspaces;               // by device
  std::map<std::pair<int, int32_t>, std::unique_ptr<DeviceSampler>> samplers;  // by device and vocabulary

  AttentionWorkspace& workspace() {
    auto& found = workspaces[current_device()];
    if (found == nullptr) found = std::make_unique<AttentionWorkspace>();
    return *found;
  }

  DeviceSampler& sampler(int32_t vocab_size) {
    auto& found = samplers[{current_device(), vocab_size}];
    if (found == nullptr) found = std::make_unique<DeviceSampler>(DeviceSamplerConfig{kDrawsPerLaunch, vocab_size, 0});
    return *found;
  }
};

ThreadState& thread_state() {
  static thread_local ThreadState state;
  return state;
}

// Runs enqueue(stream) on the thread's stream; without one, waits until the work is done.
template <class Enqueue>
void run_on_stream(Enqueue&& enqueue) {
  gpu_device();
  const GpuStream stream = thread_state().stream;
  enqueue(stream);
  if (stream == nullptr) OCTAVO_GPU_CHECK(cudaStreamSynchronize(nullptr));
}

void check_aligned(const char* name, const void* pointer) {
  if ((reinterpret_cast<uintptr_t>(pointer) & 15) != 0) {
    fail(OCTAVO_INVALID_ARGUMENT, "%s must be aligned to 16 bytes, found %p", name, pointer);
  }
}

void check_tokens(const octavo_kv_shape* shape, const void* pages, const void* k, const void* v,
                  const int32_t* slot_mapping, int32_t num_tokens) {
  check_token_arguments(shape, pages, k, v, slot_mapping, num_tokens);
  if (num_tokens > 0) check_aligned("pages", pages);
}

void check_attention(const octavo_kv_shape& shape, const octavo_attention_config& config) {
  check_attention_config(shape, config);
  if (config.num_tokens < config.num_seqs) {
    fail(OCTAVO_INVALID_ARGUMENT, "num_tokens must be at least num_seqs %d, found %d", config.num_seqs,
         config.num_tokens);
  }
  if (config.q_dtype != OCTAVO_F32 && config.q_dtype != OCTAVO_F16 && config.q_dtype != OCTAVO_BF16) {
    fail(OCTAVO_INVALID_ARGUMENT, "q_dtype must be OCTAVO_F32 (0), OCTAVO_F16 (1) or OCTAVO_BF16 (30), found %d",
         config.q_dtype);
  }
}

// The largest query_len, which lies on the device unless the caller names it.
int32_t find_max_query_len(const octavo_attention_config& config, const int32_t* query_len, GpuStream stream) {
  if (config.num_tokens == config.num_seqs) return 1;
  if (config.max_query_len > 0) return config.max_query_len;
  std::vector<int32_t> lengths(static_cast<size_t>(config.num_seqs));
  OCTAVO_GPU_CHECK(cudaMemcpyAsync(lengths.data(), query_len, lengths.size() * 4, cudaMemcpyDeviceToHost, stream));
  OCTAVO_GPU_CHECK(cudaStreamSynchronize(stream));
  return std::max(*std::max_element(lengths.begin(), lengths.end()), 1);
}

MoveParams move_params(const octavo_kv_shape& shape, uint8_t* pages, uint8_t* k, uint8_t* v,
                       const int32_t* slot_mapping, int32_t num_tokens) {
  const KvGeometry kv = kv_geometry(shape);
  const KvFormat format = kv_format(shape.kv_dtype);
  const auto part = [&](const KvRowFormat& row, int row_bytes, int codes_at, int scales_at) {
    return MovePart{row.codes_bytes(shape.head_dim), row_bytes, row.num_scales(shape.head_dim), row.scale_bytes(),
                    codes_at, scales_at};
  };
  return {kv,
          pages,
          k,
          v,
          slot_mapping,
          int64_t{shape.num_pages} * shape.page_size,
          num_tokens,
          part(format.key, kv.row_bytes, 0, kv.key_scales_at),
          part(format.value, kv.value_row_bytes, kv.value_at, kv.value_scales_at)};
}

}  // namespace
}  // namespace octavo

using octavo::check_not_null;

extern "C" int32_t octavo_abi_version(void) { return OCTAVO_ABI_VERSION; }

extern "C" int32_t octavo_device_info(octavo_device_info_t* info) {
  return octavo::guard([&] {
    check_not_null("info", info);
    const octavo::GpuDevice& device = octavo::gpu_device();
    cudaDeviceProp properties;
    OCTAVO_GPU_CHECK(cudaGetDeviceProperties(&properties, octavo::current_device()));
    size_t free_bytes = 0;
    size_t total_bytes = 0;
    OCTAVO_GPU_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
    std::memset(info, 0, sizeof *info);
    info->abi_version = OCTAVO_ABI_VERSION;
    info->num_cores = device.num_sms;
    info->memory_bytes = static_cast<double>(total_bytes);
    info->memory_free_bytes = static_cast<double>(free_bytes);
    std::snprintf(info->backend, sizeof info->backend, "cuda");
    std::snprintf(info->name, sizeof info->name, "%.*s", static_cast<int>(sizeof info->name - 1), properties.name);
    std::snprintf(info->isa, sizeof info->isa, "sm_%d%d", device.compute_major, device.compute_minor);
  });
}

extern "C" int32_t octavo_stream_set(octavo_stream* stream) {
  return octavo::guard([&] { octavo::thread_state().stream = reinterpret_cast<octavo::GpuStream>(stream); });
}

extern "C" double octavo_kv_layer_page_bytes(const octavo_kv_shape* shape) {
  double bytes = 0;
  octavo::guard([&] {
    check_not_null("shape", shape);
    octavo::check_kv_shape(*shape);
    bytes = static_cast<double>(octavo::kv_layer_page_bytes(*shape));
  });
  return bytes;
}

extern "C" int32_t octavo_quantize(int32_t kv_dtype, const float* x, int32_t n, float scale, uint8_t* stored) {
  return octavo::guard([&] {
    octavo::check_plain_kv_dtype(kv_dtype);
    octavo::check_count("n", n);
    octavo::check_scale(scale);
    if (n == 0) return;
    check_not_null("x", x);
    check_not_null("stored", stored);
    octavo::run_on_stream([&](auto stream) { octavo::quantize_gpu(kv_dtype, x, n, scale, stored, stream); });
  });
}

extern "C" int32_t octavo_dequantize(int32_t kv_dtype, const uint8_t* stored, int32_t n, float scale, float* x) {
  return octavo::guard([&] {
    octavo::check_plain_kv_dtype(kv_dtype);
    octavo::check_count("n", n);
    octavo::check_scale(scale);
    if (n == 0) return;
    check_not_null("stored", stored);
    check_not_null("x", x);
    octavo::run_on_stream([&](auto stream) { octavo::dequantize_gpu(kv_dtype, stored, n, scale, x, stream); });
  });
}

extern "C" int32_t octavo_kv_append(const octavo_kv_shape* shape, uint8_t* pages, const float* k, const float* v,
                                    const int32_t* slot_mapping, int32_t num_tokens, const float* scales,
                                    const float* k_mean) {
  return octavo::guard([&] {
    octavo::check_tokens(shape, pages, k, v, slot_mapping, num_tokens);
    octavo::check_scales_allowed(shape->kv_dtype, scales);
    octavo::check_mean_allowed(shape->kv_dtype, k_mean);
    if (num_tokens == 0) return;
    octavo::AppendParams params = {};
    params.kv = octavo::kv_geometry(*shape);
    params.pages = pages;
    params.k = k;
    params.v = v;
    params.k_stride = params.v_stride = int64_t{shape->num_kv_heads} * shape->head_dim;
    params.scales = scales;
    params.k_mean = k_mean;
    params.slot_mapping = slot_mapping;
    params.num_slots = int64_t{shape->num_pages} * shape->page_size;
    params.num_tokens = num_tokens;
    params.head_dim = shape->head_dim;
    params.kv_dtype = shape->kv_dtype;
    params.in_dtype = OCTAVO_F32;
    octavo::run_on_stream([&](auto stream) { octavo::append_gpu(params, stream, true); });
  });
}

extern "C" int32_t octavo_paged_attention(const octavo_kv_shape* shape, const octavo_attention_config* config,
                                          const uint8_t* pages, const float* q, const int32_t* query_len,
                                          const int32_t* seq_len, const int32_t* page_table, const float* scales,
                                          const float* sinks, float* out, float* lse) {
  return octavo::guard([&] {
    check_not_null("shape", shape);
    check_not_null("config", config);
    octavo::check_kv_shape(*shape);
    octavo::check_attention(*shape, *config);
    octavo::check_scales_allowed(shape->kv_dtype, scales);
    check_not_null("pages", pages);
    check_not_null("q", q);
    check_not_null("query_len", query_len);
    check_not_null("seq_len", seq_len);
    check_not_null("page_table", page_table);
    check_not_null("out", out);
    octavo::check_aligned("pages", pages);
    octavo::check_aligned("q", q);
    octavo::check_aligned("out", out);
    octavo::run_on_stream([&](auto stream) {
      const int32_t max_query_len = octavo::find_max_query_len(*config, query_len, stream);
      const bool decode = config->num_tokens == config->num_seqs;
      octavo::paged_attention({*shape, *config, pages, q, decode ? nullptr : query_len, seq_len, page_table, scales,
                               sinks, out, lse, max_query_len},
                              octavo::thread_state().workspace(), stream, true);
    });
  });
}

extern "C" int32_t octavo_kv_pack(const octavo_kv_shape* shape, uint8_t* pages, const uint8_t* k, const uint8_t* v,
                                  const int32_t* slot_mapping, int32_t num_tokens) {
  return octavo::guard([&] {
    octavo::check_tokens(shape, pages, k, v, slot_mapping, num_tokens);
    if (num_tokens == 0) return;
    octavo::run_on_stream([&](auto stream) {
      octavo::pack_gpu(octavo::move_params(*shape, pages, const_cast<uint8_t*>(k), const_cast<uint8_t*>(v),
                                           slot_mapping, num_tokens),
                       stream);
    });
  });
}

extern "C" int32_t octavo_kv_unpack(const octavo_kv_shape* shape, const uint8_t* pages, uint8_t* k, uint8_t* v,
                                    const int32_t* slot_mapping, int32_t num_tokens) {
  return octavo::guard([&] {
    octavo::check_tokens(shape, pages, k, v, slot_mapping, num_tokens);
    if (num_tokens == 0) return;
    octavo::run_on_stream([&](auto stream) {
      octavo::unpack_gpu(octavo::move_params(*shape, const_cast<uint8_t*>(pages), k, v, slot_mapping, num_tokens),
                         stream);
    });
  });
}

extern "C" int32_t octavo_matmul(int32_t dtype, const uint8_t* w, double weight_bytes, int32_t rows, int32_t cols,
                                 const float* x, int32_t m, float* y, int32_t) {
  return octavo::guard([&] {
    if (rows <= 0 || cols <= 0 || m < 0) {
      octavo::fail(OCTAVO_INVALID_ARGUMENT,
                   "rows and cols must be positive and m must not be negative, found %d, %d and %d", rows, cols, m);
    }
    check_not_null("w", w);
    octavo::check_aligned("w", w);
    const double expected_bytes = double{1} * rows * cols * (dtype == OCTAVO_F8_E4M3 ? 1 : 2);
    if (weight_bytes != expected_bytes) {
      octavo::fail(OCTAVO_INVALID_ARGUMENT, "weights of dtype %d, %d x %d, must have %.0f bytes, found %.0f", dtype, rows,
                   cols, expected_bytes, weight_bytes);
    }
    if (m == 0) return;
    check_not_null("x", x);
    check_not_null("y", y);
    octavo::run_on_stream([&](auto stream) { octavo::single_matmul({w, nullptr, rows, cols, dtype}, x, m, y, stream); });
  });
}

extern "C" int32_t octavo_sample(const octavo_sampling* sampling, const float* logits, int32_t vocab_size,
                                 const int32_t* edit_token, const int32_t* edit_count, const int32_t* edit_flags,
                                 const float* edit_bias, int32_t* sampled, float* sampled_logprob) {
  return octavo::guard([&] {
    check_not_null("sampling", sampling);
    octavo::SamplingParams params = octavo::sampling_params(*sampling);
    const octavo::LogitEdits edits = {edit_token, edit_count, edit_flags, edit_bias, sampling->num_edits};
    octavo::check_sample_arguments(*sampling, logits, vocab_size, edits, sampled);
    octavo::run_on_stream([&](auto stream) {
      octavo::DeviceSampler& sampler = octavo::thread_state().sampler(vocab_size);
      for (int32_t done = 0; done < sampling->num_draws; done += octavo::kDrawsPerLaunch) {
        params.sample_index = sampling->sample_index + done;
        sampler.draw(logits, params, edits, std::min(octavo::kDrawsPerLaunch, sampling->num_draws - done),
                     sampled + done, sampled_logprob == nullptr ? nullptr : sampled_logprob + done, stream);
      }
    });
  });
}
