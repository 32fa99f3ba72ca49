// Compute capability 9.0's matrix products of a warpgroup (wgmma), its register budget and its barriers: one function per
// PTX instruction. Elsewhere the functions are empty; the kernels that call them are not launched there.
#pragma once

#include "arch/ptx.cuh"
#include "arch/wgmma_descriptor.h"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define OCTAVO_WGMMA 1
#else
#define OCTAVO_WGMMA 0
#endif

namespace octavo {

// --- Order ------------------------------------------------------------------------------------------------------

// Orders earlier accesses of accumulator registers before the products that follow.
__device__ inline void wgmma_fence() {
#if OCTAVO_WGMMA
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

__device__ inline void wgmma_commit() {
#if OCTAVO_WGMMA
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

template <int kPending>
__device__ inline void wgmma_wait() {
#if OCTAVO_WGMMA
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
#endif
}

// Keeps the compiler from moving uses of registers that a product in flight writes or reads.
template <int kOctets>
__device__ inline void pin(float (&d)[kOctets][4]) {
#pragma unroll
  for (int j = 0; j < kOctets; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(d[j][i])::"memory");
  }
}

// Registers a thread of this warpgroup has from here on.
template <int kRegisters>
__device__ inline void raise_registers() {
#if OCTAVO_WGMMA
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}

template <int kRegisters>
__device__ inline void lower_registers() {
#if OCTAVO_WGMMA
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}

// --- Barriers ---------------------------------------------------------------------------------------------------

__device__ inline void barrier_arrive(uint32_t barrier) {
#if OCTAVO_WGMMA
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
#endif
}

// Named barriers (1 to 15): `threads` threads in all arrive or wait.
__device__ inline void named_barrier_wait(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

__device__ inline void named_barrier_arrive(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// L2 keeps these lines as it would by itself: other blocks read them too.
__device__ inline uint64_t evict_normal_policy() {
  uint64_t policy = 0;
#if OCTAVO_BULK_COPY
  asm("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(policy));
#endif
  return policy;
}

// --- Products: d[64 x N] (+)= a[64 x 16] b[16 x N], f32 sums -----------------------------------------------------
//
// d[j][0..3]: rows g, g, g + 8, g + 8 of the warp's 16, columns 8 j + 2 t, 2 t + 1. kN = 8 kOctets.

#define OCTAVO_OUT4(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define OCTAVO_OUT16(i) OCTAVO_OUT4(i), OCTAVO_OUT4(i + 1), OCTAVO_OUT4(i + 2), OCTAVO_OUT4(i + 3)
#define OCTAVO_OUT32(i) OCTAVO_OUT16(i), OCTAVO_OUT16(i + 4)
#define OCTAVO_WGMMA_SHARED_64(TYPE)                                       \
  asm volatile(                                                            \
      "{ .reg .pred add; setp.ne.b32 add, %34, 0;\n"                       \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE "." TYPE " "      \
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"            \
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, " \
      "%32, %33, add, 1, 1, 0, 0; }\n"                                     \
      : OCTAVO_OUT32(0)                                                    \
      : "l"(a), "l"(b), "r"(add))

#define OCTAVO_WGMMA_SHARED_128(TYPE)                                      \
  asm volatile(                                                            \
      "{ .reg .pred add; setp.ne.b32 add, %66, 0;\n"                       \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE " "     \
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"            \
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"   \
      "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"   \
      "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, " \
      "%64, %65, add, 1, 1, 0, 0; }\n"                                     \
      : OCTAVO_OUT32(0), OCTAVO_OUT32(8)                                   \
      : "l"(a), "l"(b), "r"(add))

#define OCTAVO_WGMMA_REGISTERS_64(TYPE)                                    \
  asm volatile(                                                            \
      "{ .reg .pred add; setp.ne.b32 add, %37, 0;\n"                       \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE "." TYPE " "      \
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"            \
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, " \
      "{%32,%33,%34,%35}, %36, add, 1, 1, 1; }\n"                          \
      : OCTAVO_OUT32(0)                                                    \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(1))

#define OCTAVO_WGMMA_REGISTERS_128(TYPE)                                   \
  asm volatile(                                                            \
      "{ .reg .pred add; setp.ne.b32 add, %69, 0;\n"                       \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE " "     \
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"            \
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"   \
      "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"   \
      "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, " \
      "{%64,%65,%66,%67}, %68, add, 1, 1, 1; }\n"                          \
      : OCTAVO_OUT32(0), OCTAVO_OUT32(8)                                   \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(1))

#define OCTAVO_WGMMA_REGISTERS_192(TYPE)                                   \
  asm volatile(                                                            \
      "{ .reg .pred add; setp.ne.b32 add, %101, 0;\n"                      \
      "wgmma.mma_async.sync.aligned.m64n192k16.f32." TYPE "." TYPE " "     \
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"            \
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"   \
      "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"   \
      "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,"   \
      "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,"   \
      "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95}, " \
      "{%96,%97,%98,%99}, %100, add, 1, 1, 1; }\n"                         \
      : OCTAVO_OUT32(0), OCTAVO_OUT32(8), OCTAVO_OUT32(16)                 \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(1))

#define OCTAVO_WGMMA_REGISTERS_256(TYPE)                                                   \
  asm volatile(                                                                            \
      "{ .reg .pred add; setp.ne.b32 add, %133, 0;\n"                                      \
      "wgmma.mma_async.sync.aligned.m64n256k16.f32." TYPE "." TYPE " "                     \
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"                            \
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"                   \
      "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"                   \
      "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,"                   \
      "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,"                   \
      "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,"                   \
      "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,"       \
      "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127}, " \
      "{%128,%129,%130,%131}, %132, add, 1, 1, 1; }\n"                                     \
      : OCTAVO_OUT32(0), OCTAVO_OUT32(8), OCTAVO_OUT32(16), OCTAVO_OUT32(24)               \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(1))

// a and b in shared memory, both K-major; without add, d is set.
template <bool kBf16, int kOctets>
__device__ inline void wgmma_shared(float (&d)[kOctets][4], uint64_t a, uint64_t b, int add) {
#if OCTAVO_WGMMA
  static_assert(kOctets == 8 || kOctets == 16, "there is a product for 64 and for 128 columns");
  if constexpr (kOctets == 8) {
    if constexpr (kBf16)
      OCTAVO_WGMMA_SHARED_64("bf16");
    else
      OCTAVO_WGMMA_SHARED_64("f16");
  } else {
    if constexpr (kBf16)
      OCTAVO_WGMMA_SHARED_128("bf16");
    else
      OCTAVO_WGMMA_SHARED_128("f16");
  }
#endif
}

// a in registers, as fragments of mma.sync for each warp's 16 rows; b in shared memory, MN-major.
template <bool kBf16, int kOctets>
__device__ inline void wgmma_registers(float (&d)[kOctets][4], const uint32_t (&a)[4], uint64_t b) {
#if OCTAVO_WGMMA
  static_assert(kOctets == 8 || kOctets == 16 || kOctets == 24 || kOctets == 32, "columns come in blocks of 64");
  if constexpr (kOctets == 8) {
    if constexpr (kBf16)
      OCTAVO_WGMMA_REGISTERS_64("bf16");
    else
      OCTAVO_WGMMA_REGISTERS_64("f16");
  } else if constexpr (kOctets == 16) {
    if constexpr (kBf16)
      OCTAVO_WGMMA_REGISTERS_128("bf16");
    else
      OCTAVO_WGMMA_REGISTERS_128("f16");
  } else if constexpr (kOctets == 24) {
    if constexpr (kBf16)
      OCTAVO_WGMMA_REGISTERS_192("bf16");
    else
      OCTAVO_WGMMA_REGISTERS_192("f16");
  } else if constexpr (kOctets == 32) {
    if constexpr (kBf16)
      OCTAVO_WGMMA_REGISTERS_256("bf16");
    else
      OCTAVO_WGMMA_REGISTERS_256("f16");
  }
#endif
}

}  // namespace octavo
