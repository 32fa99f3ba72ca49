// The attention kernel for the instruction set in this file's name.
#include "attn/attention_kernel.h"
#if defined(__x86_64__)
#include <immintrin.h>

namespace octavo {
#include "attn/simd_avx2.h"

#include "attn/attention_kernel.inl"

const AttentionKernel kAttentionAvx2 = {attend_whole, attend_split, attend_merge};

}  // namespace octavo
#endif
