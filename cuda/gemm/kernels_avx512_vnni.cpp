// Kernels for AVX-512 with VNNI: vpdpbusd multiplies 64 unsigned by 64 signed bytes and adds fours.
#if defined(__x86_64__)
#include "gemm/kernel_template.h"
#include "gemm/simd_avx512.h"

namespace octavo {
namespace {

// An activation is 256 * high + low, both signed bytes: data[0..7] the high bytes of the quads, data[8..15] the low
// ones.
struct Avx512Vnni : Avx512Vectors {
  struct Sum {
    Ints high, low;
  };
  static Sum start(int32_t value) { return {_mm512_setzero_si512(), _mm512_set1_epi32(value)}; }
  static void dot(Sum& sum, Bytes weights, const Activation& x, int quad) {
    sum.high = _mm512_dpbusd_epi32(sum.high, weights, _mm512_set1_epi32(x.data[quad]));
    sum.low = _mm512_dpbusd_epi32(sum.low, weights, _mm512_set1_epi32(x.data[kQuads + quad]));
  }
  static Ints finish(Sum sum) { return _mm512_add_epi32(_mm512_slli_epi32(sum.high, 8), sum.low); }

  static void arrange(const int32_t rounded[kBlockCols], int32_t data[16]) {
    int8_t bytes[64];
    for (int i = 0; i < kBlockCols; ++i) {
      bytes[i] = static_cast<int8_t>((rounded[i] + 128) >> 8);
      bytes[kBlockCols + i] = static_cast<int8_t>(rounded[i]);
    }
    __builtin_memcpy(data, bytes, sizeof bytes);
  }
};

constexpr KernelSet kKernels = make_kernels<Avx512Vnni>();

}  // namespace

const KernelSet& kernels_avx512_vnni() { return kKernels; }

}  // namespace octavo

#endif  // __x86_64__
