// Kernels for AVX-512 without VNNI: vpmaddwd on the even and the odd bytes of the weights.
#if defined(__x86_64__)
#include "gemm/kernel_template.h"
#include "gemm/simd_avx512.h"

namespace octavo {
namespace {

struct Avx512 : Avx512Vectors {
  using Sum = Ints;
  static Sum start(int32_t value) { return _mm512_set1_epi32(value); }
  static void dot(Sum& sum, Bytes weights, const Activation& x, int quad) {
    const Ints even = _mm512_and_si512(weights, _mm512_set1_epi16(0xFF)), odd = _mm512_srli_epi16(weights, 8);
    sum = _mm512_add_epi32(sum, _mm512_add_epi32(_mm512_madd_epi16(even, _mm512_set1_epi32(x.data[2 * quad])),
                                                 _mm512_madd_epi16(odd, _mm512_set1_epi32(x.data[2 * quad + 1]))));
  }
  static Ints finish(Sum sum) { return sum; }

  static void arrange(const int32_t rounded[kBlockCols], int32_t data[16]) { arrange_pairs(rounded, data); }
};

constexpr KernelSet kKernels = make_kernels<Avx512>();

}  // namespace

const KernelSet& kernels_avx512() { return kKernels; }

}  // namespace octavo

#endif  // __x86_64__
