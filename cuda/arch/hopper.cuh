// The instructions of compute capability 9.0a that the products use: tensor copies and warpgroup MMA. On other targets
// the functions are there and do nothing, so that code for both kinds of card parses; it never runs there.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace octavo {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define OCTAVO_WARPGROUP_MMA 1
#else
#define OCTAVO_WARPGROUP_MMA 0
#endif

// --- Barriers ----------------------------------------------------------------------------------------------------

__device__ inline void barrier_arrive(uint32_t barrier) {
#if OCTAVO_WARPGROUP_MMA
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
#endif
}

// Waits for `threads` threads of the block that name the same barrier, 1 .. 15 (0 is __syncthreads).
template <int kBarrier, int kThreads>
__device__ inline void named_barrier() {
  asm volatile("bar.sync %0, %1;" ::"n"(kBarrier), "n"(kThreads) : "memory");
}

// --- Tensor copies: a box of a tensor to shared memory, zeros outside of the tensor ------------------------------

__device__ inline void prefetch_tensor_map(const CUtensorMap& map) {
#if OCTAVO_WARPGROUP_MMA
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
#endif
}

__device__ inline void tensor_copy_2d(uint32_t destination, const CUtensorMap& map, int c0, int c1, uint32_t barrier,
                                      uint64_t policy) {
#if OCTAVO_WARPGROUP_MMA
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(destination),
      "l"(&map), "r"(c0), "r"(c1), "r"(barrier), "l"(policy)
      : "memory");
#endif
}

__device__ inline void tensor_copy_4d(uint32_t destination, const CUtensorMap& map, int c0, int c1, int c2, int c3,
                                      uint32_t barrier, uint64_t policy) {
#if OCTAVO_WARPGROUP_MMA
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%2, %3, %4, %5}], [%6], %7;" ::"r"(destination),
      "l"(&map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(barrier), "l"(policy)
      : "memory");
#endif
}

__device__ inline uint64_t evict_last_policy() {
  uint64_t policy = 0;
#if OCTAVO_WARPGROUP_MMA
  asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
#endif
  return policy;
}

// --- Warpgroup MMA -----------------------------------------------------------------------------------------------

// Describes an operand in shared memory: rows of 128 bytes of the contracted axis, 128-byte swizzle, so groups of 8 rows
// lie 1024 bytes apart. 32 bytes along the row are one step of an instruction: add 2.
__device__ inline uint64_t matrix_descriptor(uint32_t address) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kGroupStride = uint64_t{1024 >> 4} << 32;
  constexpr uint64_t kUnusedStride = uint64_t{1} << 16;
  return kSwizzle128 | kGroupStride | kUnusedStride | ((address & 0x3FFFF) >> 4);
}

// Before the first MMA, and whenever registers it reads were written.
__device__ inline void warpgroup_fence() {
#if OCTAVO_WARPGROUP_MMA
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

__device__ inline void warpgroup_commit() {
#if OCTAVO_WARPGROUP_MMA
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

template <int kPending>
__device__ inline void warpgroup_wait() {
#if OCTAVO_WARPGROUP_MMA
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
#endif
}

}  // namespace octavo
