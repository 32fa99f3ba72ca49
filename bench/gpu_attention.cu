// Paged attention's speed on the GPU at hand, as JSON lines.
//
//   gpu_attention [--cells B[*CHUNK]xCTX:HQ/HKV:D:PAGE:DTYPE,...] [--set anchors|quick|formats|grid|prefill]
//                 [--kv DTYPE,...] [--item-cost N] [--min-steps N] [--no-overlap] [--no-early] [--plan]
//
// --kv: the formats of quick, anchors, grid and prefill, in place of fp8_e4m3 and bfloat16.
//
// Protocol: every call of a CUDA graph reads another slice of a pool of at least 512 MB (L2 is cold) through a page
// table in random order; time = graph / calls, median of the replays. Rates count the bytes of K and V alone (and of the
// scales that a format keeps with them) and are set against a linear read of 8 GB measured in the same process. The plan
// is made once before the graph, as for the layers of a step; --plan makes it in every call. Without --no-overlap, calls
// use programmatic dependent launch.
//
// Cells with a chunk are prefill: CHUNK new tokens, the last of CTX, in each sequence. They are timed as 8 calls, one after
// the other, as the layers of a step; what converts FP8 keys is part of a call. TFLOPS count the products that the causal
// mask leaves: 4 x head_dim x q heads x visible keys.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iterator>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "_gpu_timing.cuh"
#include "attn/paged_attention.h"
#include "kv/format.h"

namespace {

struct Cell {
  int batch;
  int context;  // 0: lengths of `lengths`
  int q_heads;
  int kv_heads;
  int head_dim;
  int page_size;
  int kv_dtype;
  std::vector<int> lengths;
  std::string name;
  int chunk = 1;  // new tokens of each sequence
};

constexpr int64_t kQueryElements = int64_t{16384} * 32 * 128;  // of the largest cell

struct Options {
  octavo::PlanTuning tuning;
  bool overlap = true;
  bool plan_each = false;
  bool early = true;
  double ceiling = 0;
};

// What the pool is filled with: random elements of about unit size, never NaN. As bytes they are either fp8; positive
// bytes are also integer codes and positive f32 and f16 scales.
enum Fill { kNothing, kBytes, kHalves, kPositiveBytes };

__global__ void fill_kernel(uint32_t* data, int64_t words, Fill fill) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < words; i += stride) {
    const uint32_t r = random_word(i);
    data[i] = fill == kHalves  ? (r & 0x80FF80FFu) | 0x3F003F00u
              : fill == kBytes ? (r & 0x9F9F9F9Fu) | 0x20202020u
                               : (r & 0x1F1F1F1Fu) | 0x20202020u;
  }
}

constexpr const char* kDtypeNames[] = {"float32",  "float16",            "bfloat16", "fp8_e4m3",
                                       "fp8_e5m2", "fp8_per_token_head", "int8",     "int8_per_token_head",
                                       "k8v4",     "int4"};

Fill fill_of(int kv_dtype) {
  if (octavo::has_own_scales(kv_dtype)) return kPositiveBytes;
  return octavo::kv_format(kv_dtype).key.code_bits == 8 ? kBytes : kHalves;
}

// Of K and V of a token and kv head.
int stored_bytes(int kv_dtype, int head_dim) {
  const octavo::KvFormat format = octavo::kv_format(kv_dtype);
  return format.key.packed_bytes(head_dim) + format.value.packed_bytes(head_dim);
}

template <class T>
T* upload(const std::vector<T>& host) {
  T* device = nullptr;
  OCTAVO_GPU_CHECK(cudaMalloc(&device, host.size() * sizeof(T)));
  OCTAVO_GPU_CHECK(cudaMemcpy(device, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
  return device;
}

struct Bench {
  uint8_t* pool;
  int64_t pool_bytes;
  void* q;
  void* out;
  octavo::AttentionWorkspace workspace;
  GpuStream stream;
  Fill filled = kNothing;

  void time_prefill(const Cell& cell, octavo::PagedAttentionArgs args, const Options& options);

  void run_cell(const Cell& cell, const Options& options) {
    if (filled != fill_of(cell.kv_dtype)) {
      filled = fill_of(cell.kv_dtype);
      fill_kernel<<<2048, 512, 0, stream>>>(reinterpret_cast<uint32_t*>(pool), pool_bytes / 4, filled);
    }
    std::vector<int> lengths = cell.lengths;
    if (lengths.empty()) lengths.assign(static_cast<size_t>(cell.batch), cell.context);
    const int longest = *std::max_element(lengths.begin(), lengths.end());
    const int max_pages = (longest + cell.page_size - 1) / cell.page_size;
    int64_t tokens = 0;
    int num_pages = 0;
    for (int length : lengths) tokens += length, num_pages += (length + cell.page_size - 1) / cell.page_size;
    std::vector<int> order(static_cast<size_t>(num_pages));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937(7));
    std::vector<int> table(static_cast<size_t>(cell.batch) * max_pages, -1);
    int next = 0;
    for (int s = 0; s < cell.batch; ++s) {
      for (int i = 0; i * cell.page_size < lengths[s]; ++i)
        table[static_cast<size_t>(s) * max_pages + i] = order[next++];
    }
    octavo::PagedAttentionArgs args = {};
    args.shape = {cell.kv_dtype, cell.page_size, num_pages, cell.kv_heads, cell.head_dim, 0};
    args.config.num_seqs = cell.batch;
    args.config.num_tokens = cell.batch * cell.chunk;
    args.config.num_q_heads = cell.q_heads;
    args.config.max_pages_per_seq = max_pages;
    args.config.softmax_scale = 1.0f / 11.3f;
    args.config.q_dtype = OCTAVO_BF16;
    int32_t* seq_len = upload(lengths);
    int32_t* page_table = upload(table);
    args.q = q;
    args.seq_len = seq_len;
    args.page_table = page_table;
    args.out = out;
    args.max_query_len = cell.chunk;
    if (cell.chunk > 1) {
      args.pages = pool;
      int32_t* query_len = upload(std::vector<int>(static_cast<size_t>(cell.batch), cell.chunk));
      args.query_len = query_len;
      time_prefill(cell, args, options);
      cudaFree(query_len);
      cudaFree(seq_len);
      cudaFree(page_table);
      return;
    }
    const int64_t set_bytes = num_pages * octavo::kv_geometry(args.shape).page_bytes;
    const double kv_bytes =
        static_cast<double>(tokens) * cell.kv_heads * stored_bytes(cell.kv_dtype, cell.head_dim);
    const int sets =
        static_cast<int>(std::min<int64_t>(256, std::max<int64_t>(2, ((512ll << 20) + set_bytes - 1) / set_bytes)));
    if (sets * set_bytes > pool_bytes) {
      std::printf("{\"cell\": \"%s\", \"error\": \"pool too small\"}\n", cell.name.c_str());
      return;
    }
    args.pages = pool;
    octavo::paged_attention(args, workspace, stream, options.overlap, options.tuning);  // makes the plan, warms up
    OCTAVO_GPU_CHECK(cudaStreamSynchronize(stream));
    const int calls = std::max(sets, 16) / sets * sets;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    OCTAVO_GPU_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    for (int i = 0; i < calls; ++i) {
      args.pages = pool + (i % sets) * set_bytes;
      args.config.reuse_plan = options.plan_each ? 0 : 1;
      args.early = options.early;
      octavo::paged_attention(args, workspace, stream, options.overlap, options.tuning);
    }
    OCTAVO_GPU_CHECK(cudaStreamEndCapture(stream, &graph));
    OCTAVO_GPU_CHECK(cudaGraphInstantiate(&exec, graph, 0));
    const auto replay = [&] { OCTAVO_GPU_CHECK(cudaGraphLaunch(exec, stream)); };
    replay();
    const double guess = time_ms(stream, 1, replay);
    const double us = time_ms(stream, std::clamp(static_cast<int>(60 / guess), 3, 20), replay) * 1e3 / calls;
    std::printf(
        "{\"cell\": \"%s\", \"kv\": \"%s\", \"us\": %.2f, \"mb\": %.2f, \"tb_s\": %.3f, \"share\": %.3f, "
        "\"overlap\": %d, \"item_cost\": %d, \"min_steps\": %d}\n",
        cell.name.c_str(), kDtypeNames[cell.kv_dtype], us, kv_bytes * 1e-6, kv_bytes / us * 1e-6,
        kv_bytes / us * 1e-6 / options.ceiling, options.overlap, options.tuning.item_cost,
        options.tuning.min_range_steps);
    std::fflush(stdout);
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaFree(seq_len);
    cudaFree(page_table);
  }
};

void Bench::time_prefill(const Cell& cell, octavo::PagedAttentionArgs args, const Options& options) {
  const auto call = [&](int reuse) {
    args.config.reuse_plan = reuse;
    octavo::paged_attention(args, workspace, stream, options.overlap, options.tuning);
  };
  call(0);
  OCTAVO_GPU_CHECK(cudaStreamSynchronize(stream));
  constexpr int kCalls = 8;
  const auto step = [&] {
    for (int i = 0; i < kCalls; ++i) call(1);
  };
  step();
  const double guess = time_ms(stream, 1, step);
  const double us = time_ms(stream, std::clamp(static_cast<int>(100 / guess), 3, 10), step) * 1e3 / kCalls;
  const double chunk = cell.chunk;
  const double keys = cell.batch * (chunk * (cell.context - chunk) + chunk * (chunk + 1) / 2);
  const double tflops = 4 * keys * cell.head_dim * cell.q_heads / us * 1e-6;
  std::printf("{\"cell\": \"%s\", \"kv\": \"%s\", \"us\": %.1f, \"tflops\": %.1f}\n", cell.name.c_str(),
              kDtypeNames[cell.kv_dtype], us, tflops);
  std::fflush(stdout);
}

int parse_dtype(const std::string& name) {
  for (int dtype = 0; dtype < static_cast<int>(std::size(kDtypeNames)); ++dtype) {
    if (name == kDtypeNames[dtype]) return dtype;
  }
  std::fprintf(stderr, "unknown KV dtype \"%s\"\n", name.c_str());
  std::exit(2);
}

Cell make_cell(int batch, int context, int q_heads, int kv_heads, int head_dim, int page_size, int kv_dtype,
               int chunk = 1) {
  Cell cell = {batch, context, q_heads, kv_heads, head_dim, page_size, kv_dtype, {}, "", chunk};
  char name[96];
  char part[16] = "";
  if (chunk > 1) std::snprintf(part, sizeof part, "*%d", chunk);
  std::snprintf(name, sizeof name, "%d%sx%d %d/%d d%d p%d", batch, part, context, q_heads, kv_heads, head_dim,
                page_size);
  cell.name = name;
  return cell;
}

std::vector<Cell> parse_cells(const char* text) {
  std::vector<Cell> cells;
  for (const char* at = text; at != nullptr && *at != 0;) {
    int batch, chunk = 1, context, q_heads, kv_heads, head_dim, page_size;
    char dtype[32];
    if (std::sscanf(at, "%dx%d:%d/%d:%d:%d:%31[a-z0-9_]", &batch, &context, &q_heads, &kv_heads, &head_dim, &page_size,
                    dtype) != 7 &&
        std::sscanf(at, "%d*%dx%d:%d/%d:%d:%d:%31[a-z0-9_]", &batch, &chunk, &context, &q_heads, &kv_heads, &head_dim,
                    &page_size, dtype) != 8) {
      std::fprintf(stderr, "cannot read cell \"%s\"\n", at);
      std::exit(2);
    }
    cells.push_back(make_cell(batch, context, q_heads, kv_heads, head_dim, page_size, parse_dtype(dtype), chunk));
    at = std::strchr(at, ',');
    if (at != nullptr) ++at;
  }
  return cells;
}

std::vector<int> parse_dtypes(std::string names) {
  std::vector<int> dtypes;
  for (size_t begin = 0, end; begin < names.size(); begin = end + 1) {
    end = std::min(names.find(',', begin), names.size());
    dtypes.push_back(parse_dtype(names.substr(begin, end - begin)));
  }
  return dtypes;
}

std::vector<Cell> make_set(const std::string& name, const std::vector<int>& dtypes) {
  std::vector<Cell> cells;
  struct Heads {
    int q, kv;
  };
  if (name == "quick") {
    for (int dtype : dtypes) {
      for (auto [b, c] : {std::pair{1, 1024}, {1, 8192}, {1, 131072}, {8, 1024}, {64, 1024}, {64, 8192}, {256, 4096}}) {
        cells.push_back(make_cell(b, c, 32, 8, 128, 16, dtype));
      }
    }
  } else if (name == "anchors") {
    for (int dtype : dtypes) {
      for (auto [b, c] : {std::pair{1, 1024},
                          {1, 8192},
                          {1, 32768},
                          {1, 131072},
                          {8, 1024},
                          {8, 8192},
                          {8, 32768},
                          {64, 1024},
                          {64, 8192},
                          {256, 1024},
                          {256, 4096}}) {
        for (int page : {16, 64}) cells.push_back(make_cell(b, c, 32, 8, 128, page, dtype));
      }
      cells.push_back(make_cell(16, 4096, 32, 32, 128, 16, dtype));
      cells.push_back(make_cell(64, 8192, 8, 1, 128, 16, dtype));
    }
  } else if (name == "prefill") {
    for (int dtype : dtypes) {
      for (auto [chunk, context] : {std::pair{512, 8192}, {1024, 8192}, {2048, 2048}, {2048, 8192}, {2048, 32768},
                                    {2048, 131072}, {4096, 4096}, {8192, 8192}, {8192, 32768}}) {
        cells.push_back(make_cell(1, context, 32, 8, 128, 16, dtype, chunk));
      }
      cells.push_back(make_cell(8, 2048, 32, 8, 128, 16, dtype, 2048));
      cells.push_back(make_cell(1, 8192, 32, 32, 128, 16, dtype, 8192));
      cells.push_back(make_cell(1, 8192, 8, 1, 128, 16, dtype, 8192));
      cells.push_back(make_cell(1, 8192, 32, 8, 64, 16, dtype, 8192));
      cells.push_back(make_cell(1, 8192, 16, 8, 256, 16, dtype, 8192));
      cells.push_back(make_cell(1, 8192, 32, 8, 128, 64, dtype, 8192));
    }
  } else if (name == "formats") {
    const int formats[] = {OCTAVO_KV_FP8_E4M3, OCTAVO_KV_FP8_PER_TOKEN_HEAD, OCTAVO_KV_INT8,
                           OCTAVO_KV_INT8_PER_TOKEN_HEAD, OCTAVO_KV_K8V4, OCTAVO_KV_INT4};
    for (auto [b, c] : {std::pair{1, 1024}, {1, 32768}, {8, 1024}, {8, 8192}, {64, 1024}, {64, 8192}, {256, 4096}}) {
      for (int page : {16, 64}) {
        for (int dtype : formats) cells.push_back(make_cell(b, c, 32, 8, 128, page, dtype));
      }
    }
    for (int dtype : formats) {
      cells.push_back(make_cell(1, 8192, 32, 8, 128, 16, dtype, 2048));
      cells.push_back(make_cell(8, 2048, 32, 8, 128, 16, dtype, 2048));
    }
  } else if (name == "grid") {
    for (int dtype : dtypes) {
      for (Heads heads : {Heads{32, 8}, {8, 1}, {64, 8}, {32, 32}}) {
        for (int head_dim : {64, 128, 256}) {
          for (int batch = 1; batch <= 256; batch *= 4) {
            for (int context = 512; context <= 131072; context *= 4) {
              const int64_t bytes = int64_t{batch} * context * heads.kv * stored_bytes(dtype, head_dim);
              if (bytes > (8ll << 30)) continue;
              if (head_dim != 128 && heads.q != 32) continue;
              for (int page : {16, 64}) {
                if (page == 64 && (head_dim != 128 || heads.kv == 32)) continue;
                cells.push_back(make_cell(batch, context, heads.q, heads.kv, head_dim, page, dtype));
              }
            }
          }
        }
      }
      Cell mix = make_cell(32, 0, 32, 8, 128, 16, dtype);
      mix.lengths.assign(32, 4096);
      mix.lengths[0] = 65536;
      mix.name = "1x65536+31x4096 32/8 d128 p16";
      cells.push_back(mix);
      mix.lengths.assign(32, (65536 + 31 * 4096) / 32);
      mix.name = "32x6016 (uniform of the same sum) 32/8 d128 p16";
      cells.push_back(mix);
      Cell spread = make_cell(64, 0, 32, 8, 128, 16, dtype);
      std::mt19937 random(3);
      std::lognormal_distribution<double> lognormal(8.0, 1.0);
      for (int i = 0; i < 64; ++i) spread.lengths.push_back(std::clamp(static_cast<int>(lognormal(random)), 16, 65536));
      spread.name = "64 log-normal (median 2981) 32/8 d128 p16";
      cells.push_back(spread);
    }
  } else {
    std::fprintf(stderr, "unknown set \"%s\"\n", name.c_str());
    std::exit(2);
  }
  return cells;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    Options options;
    std::vector<Cell> cells;
    std::string set;
    std::vector<int> dtypes = {OCTAVO_KV_FP8_E4M3, OCTAVO_KV_BFLOAT16};
    for (int i = 1; i < argc; ++i) {
      const std::string flag = argv[i];
      const char* value = i + 1 < argc ? argv[i + 1] : "";
      if (flag == "--no-overlap")
        options.overlap = false;
      else if (flag == "--no-early")
        options.early = false;
      else if (flag == "--plan")
        options.plan_each = true;
      else if (flag == "--item-cost")
        options.tuning.item_cost = std::atoi(value), ++i;
      else if (flag == "--min-steps")
        options.tuning.min_range_steps = std::max(std::atoi(value), 1), ++i;
      else if (flag == "--cells")
        cells = parse_cells(value), ++i;
      else if (flag == "--set")
        set = value, ++i;
      else if (flag == "--kv")
        dtypes = parse_dtypes(value), ++i;
      else
        std::fprintf(stderr, "unknown flag \"%s\"\n", argv[i]), std::exit(2);
    }
    if (cells.empty()) cells = make_set(set.empty() ? "quick" : set, dtypes);
    Bench bench = {};
    bench.pool_bytes = 20ll << 30;
    OCTAVO_GPU_CHECK(cudaMalloc(&bench.pool, static_cast<size_t>(bench.pool_bytes)));
    OCTAVO_GPU_CHECK(cudaMalloc(&bench.q, kQueryElements * 2));
    OCTAVO_GPU_CHECK(cudaMalloc(&bench.out, kQueryElements * 2));
    OCTAVO_GPU_CHECK(cudaStreamCreate(&bench.stream));
    fill_kernel<<<512, 512, 0, bench.stream>>>(static_cast<uint32_t*>(bench.q), kQueryElements / 2, kHalves);
    fill_kernel<<<2048, 512, 0, bench.stream>>>(reinterpret_cast<uint32_t*>(bench.pool), bench.pool_bytes / 4, kBytes);
    bench.filled = kBytes;
    cudaDeviceProp about;
    int driver = 0;
    OCTAVO_GPU_CHECK(cudaGetDeviceProperties(&about, 0));
    OCTAVO_GPU_CHECK(cudaDriverGetVersion(&driver));
    uint32_t* sink = upload(std::vector<uint32_t>(1));
    options.ceiling = measure_read_rate(bench.pool, 8ll << 30, sink, bench.stream);
    std::printf("{\"card\": \"%s\", \"sms\": %d, \"cuda_driver\": %d, \"read_tb_s\": %.3f}\n", about.name,
                about.multiProcessorCount, driver, options.ceiling);
    for (const Cell& cell : cells) bench.run_cell(cell, options);
    std::printf("{\"read_tb_s_after\": %.3f}\n", measure_read_rate(bench.pool, 8ll << 30, sink, bench.stream));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
