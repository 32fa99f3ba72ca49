// The append kernel with everything a model may ask of it (qk-norm, RoPE, Q output, scales), against f64 on the host.
// test_append.py compiles and runs it: the ABI's octavo_kv_append has no way to ask for these.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "kv/append.h"

namespace {

template <class T>
T* upload(const std::vector<T>& host) {
  T* device = nullptr;
  OCTAVO_GPU_CHECK(cudaMalloc(&device, host.size() * sizeof(T)));
  OCTAVO_GPU_CHECK(cudaMemcpy(device, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
  return device;
}

void require(bool condition, const char* what, int token, int head, int dim, double found, double expected) {
  if (condition) return;
  std::printf("%s of token %d, head %d, dim %d: found %.9g, expected %.9g\n", what, token, head, dim, found, expected);
  std::exit(1);
}

// One head after norm and rotation, in f64.
std::vector<double> transform(const float* x, const std::vector<float>& norm, const float* cosines, const float* sines,
                              int d) {
  std::vector<double> y(x, x + d);
  double squares = 0;
  for (double value : y) squares += value * value;
  const double factor = 1 / std::sqrt(squares / d + 1e-6);
  for (int i = 0; i < d; ++i) y[i] *= factor * (norm[i] + 1.0);
  for (int i = 0; i < d / 2; ++i) {
    const double low = y[i], high = y[i + d / 2];
    y[i] = low * cosines[i] - high * sines[i];
    y[i + d / 2] = high * cosines[i] + low * sines[i];
  }
  return y;
}

// counts: the general kernel, which also counts, instead of the one for plain formats.
void test_head_dim(int d, bool counts) {
  const int tokens = 19, q_heads = 6, kv_heads = 2, page_size = 32, num_pages = 3, width = (q_heads + 2 * kv_heads) * d;
  std::mt19937 random(d);
  std::normal_distribution<float> normal;
  std::vector<float> qkv(static_cast<size_t>(tokens) * width), q_norm(d), k_norm(d), cosines(tokens * d / 2),
      sines(tokens * d / 2);
  for (auto* values : {&qkv, &q_norm, &k_norm}) {
    for (float& value : *values) value = normal(random);
  }
  for (size_t i = 0; i < cosines.size(); ++i) {
    const float angle = normal(random) * 10;
    cosines[i] = std::cos(angle);
    sines[i] = std::sin(angle);
  }
  const std::vector<float> scales = {0.5f, 0.25f, 2.0f, 0.75f};
  std::vector<int32_t> slots;
  for (int t = 0; t < tokens; ++t) slots.push_back((t * 41 + 5) % (num_pages * page_size));
  slots[4] = -1;

  octavo::AppendParams p = {};
  p.kv.row_bytes = p.kv.value_row_bytes = octavo::row_bytes_of(d, 4);
  p.kv.value_at = octavo::half_granule_bytes(p.kv.row_bytes);
  p.kv.granule_bytes = 2 * p.kv.value_at;
  p.kv.page_shift = 5;
  p.kv.num_kv_heads = kv_heads;
  p.kv.page_bytes = static_cast<int64_t>(kv_heads) * 2 * p.kv.granule_bytes;
  std::vector<uint8_t> pages(static_cast<size_t>(num_pages * p.kv.page_bytes), 0xA5);
  float* device_qkv = upload(qkv);
  p.pages = upload(pages);
  p.q = device_qkv;
  p.k = device_qkv + q_heads * d;
  p.v = device_qkv + (q_heads + kv_heads) * d;
  p.q_stride = p.k_stride = p.v_stride = width;
  std::vector<float> q_out(static_cast<size_t>(tokens) * q_heads * d, NAN);
  p.q_out = upload(q_out);
  p.q_norm = upload(q_norm);
  p.k_norm = upload(k_norm);
  p.cosines = upload(cosines);
  p.sines = upload(sines);
  p.scales = upload(scales);
  p.slot_mapping = upload(slots);
  if (counts) p.stats = upload(std::vector<octavo::KvStatsRow>(2 * kv_heads, octavo::KvStatsRow{}));
  p.num_slots = num_pages * page_size;
  p.num_tokens = tokens;
  p.num_q_heads = q_heads;
  p.head_dim = d;
  p.kv_dtype = OCTAVO_KV_FLOAT32;  // shows the values themselves; the formats' rounding is tested through the ABI
  p.in_dtype = OCTAVO_F32;
  p.q_out_dtype = OCTAVO_F32;
  p.norm_eps = 1e-6f;
  p.norm_offset = 1.0f;
  octavo::append_gpu(p, nullptr, true);
  OCTAVO_GPU_CHECK(cudaMemcpy(pages.data(), p.pages, pages.size(), cudaMemcpyDeviceToHost));
  OCTAVO_GPU_CHECK(cudaMemcpy(q_out.data(), p.q_out, q_out.size() * 4, cudaMemcpyDeviceToHost));

  for (int t = 0; t < tokens; ++t) {
    const float* row = qkv.data() + static_cast<size_t>(t) * width;
    for (int h = 0; h < q_heads; ++h) {
      const auto expected = transform(row + h * d, q_norm, &cosines[t * d / 2], &sines[t * d / 2], d);
      for (int i = 0; i < d; ++i) {
        const double found = q_out[(static_cast<size_t>(t) * q_heads + h) * d + i];
        require(std::abs(found - expected[i]) <= 2e-6 * (1 + std::abs(expected[i])) * 4, "q", t, h, i, found,
                expected[i]);
      }
    }
    if (slots[t] < 0) continue;
    for (int h = 0; h < kv_heads; ++h) {
      const auto key = transform(row + (q_heads + h) * d, k_norm, &cosines[t * d / 2], &sines[t * d / 2], d);
      const uint8_t* granule = pages.data() + p.kv.granule_offset(slots[t] / page_size, h, slots[t] % page_size);
      for (int i = 0; i < d; ++i) {
        float k = 0, v = 0;
        const int at = octavo::byte_offset(p.kv.row_bytes, slots[t] % 16, i * 4);
        std::memcpy(&k, granule + at, 4);
        std::memcpy(&v, granule + p.kv.value_at + at, 4);
        const double expected = key[i] / scales[h];
        require(std::abs(k - expected) <= 1e-5 * (1 + std::abs(expected)), "k", t, h, i, k, expected);
        const float value = row[(q_heads + kv_heads + h) * d + i] / scales[kv_heads + h];
        require(v == value, "v", t, h, i, v, value);
      }
    }
  }
}

}  // namespace

int main() {
  for (int head_dim : {8, 40, 64, 128, 256}) {
    for (bool counts : {false, true}) test_head_dim(head_dim, counts);
  }
  std::puts("append: ok");
  return 0;
}
