// The attention kernel for the instruction set in this file's name.
#include "attn/attention_kernel.h"

namespace octavo {
#include "attn/simd_portable.h"

#include "attn/attention_kernel.inl"

const AttentionKernel kAttentionPortable = {attend_whole, attend_split, attend_merge};

}  // namespace octavo
