// Tensor copies and clusters of compute capability 9.0: one function per PTX instruction. Elsewhere the functions are
// empty; the kernels that call them are not launched there.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "arch/ptx.cuh"

namespace octavo {

// --- Clusters: blocks that reach each other's shared memory -------------------------------------------------------

__device__ inline void cluster_arrive() {
#if OCTAVO_BULK_COPY
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}

__device__ inline void cluster_wait() {
#if OCTAVO_BULK_COPY
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// --- Tensor copies: a box of a tensor to shared memory, zeros outside of the tensor ------------------------------

__device__ inline void prefetch_tensor_map(const CUtensorMap& map) {
#if OCTAVO_BULK_COPY
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
#endif
}

__device__ inline void tensor_copy_2d(uint32_t destination, const CUtensorMap& map, int c0, int c1, uint32_t barrier,
                                      uint64_t policy) {
#if OCTAVO_BULK_COPY
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(destination),
      "l"(&map), "r"(c0), "r"(c1), "r"(barrier), "l"(policy)
      : "memory");
#endif
}

__device__ inline void tensor_copy_4d(uint32_t destination, const CUtensorMap& map, int c0, int c1, int c2, int c3,
                                      uint32_t barrier, uint64_t policy) {
#if OCTAVO_BULK_COPY
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%2, %3, %4, %5}], [%6], %7;" ::"r"(destination),
      "l"(&map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(barrier), "l"(policy)
      : "memory");
#endif
}

__device__ inline uint64_t evict_last_policy() {
  uint64_t policy = 0;
#if OCTAVO_BULK_COPY
  asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
#endif
  return policy;
}

}  // namespace octavo
