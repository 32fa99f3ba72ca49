// One function per PTX instruction the kernels use. Fragment layouts are those of the PTX manual: lane = 4 g + t.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace octavo {

// Bulk copies and barriers that count bytes are there from compute capability 9.0 on.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define OCTAVO_BULK_COPY 1
#else
#define OCTAVO_BULK_COPY 0
#endif

__device__ inline uint32_t smem_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// --- Shared memory to fragments ---------------------------------------------------------------------------------

__device__ inline void ldmatrix_x4(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

__device__ inline void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

__device__ inline float load_shared(uint32_t address) {
  float x;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(x) : "r"(address) : "memory");
  return x;
}

__device__ inline uint16_t load_shared_16(uint32_t address) {
  uint16_t bits;
  asm volatile("ld.shared.u16 %0, [%1];" : "=h"(bits) : "r"(address) : "memory");
  return bits;
}

__device__ inline float load_shared_half(uint32_t address) {
  return __half2float(__ushort_as_half(load_shared_16(address)));
}

__device__ inline float4 load_shared_float4(uint32_t address) {
  float4 x;
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
               : "r"(address)
               : "memory");
  return x;
}

// Transposes an 8 x 8 matrix of 16-bit elements held one row of two per lane.
__device__ inline uint32_t movmatrix_trans(uint32_t value) {
  uint32_t result;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(value));
  return result;
}

// --- Matrix products: d[16 x 8] += a[16 x 16] b[16 x 8], f32 sums -----------------------------------------------

__device__ inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// --- Conversions ------------------------------------------------------------------------------------------------

// Four E4M3 bytes to f16, exactly: low = bytes 0 and 1, high = bytes 2 and 3.
__device__ inline void e4m3x4_to_f16x4(uint32_t four, uint32_t& low, uint32_t& high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  asm("{ .reg .b16 first, second; mov.b32 {first, second}, %2; cvt.rn.f16x2.e4m3x2 %0, first; "
      "cvt.rn.f16x2.e4m3x2 %1, second; }"
      : "=r"(low), "=r"(high)
      : "r"(four));
#else
  // E4M3's exponent and mantissa, moved to f16's place, read as value * 2^-8, subnormals too; NaN (0x7F) is put right.
  const auto widen = [](uint32_t spread) {  // one byte in the upper half of each 16 bits
    const uint32_t bits = (spread & 0x80008000u) | ((spread & 0x7F007F00u) >> 1);
    const __half2 scaled = __hmul2(*reinterpret_cast<const __half2*>(&bits), __half2half2(__ushort_as_half(0x5C00)));
    uint32_t result = *reinterpret_cast<const uint32_t*>(&scaled);
    if ((spread & 0x7F000000u) == 0x7F000000u) result |= 0x7FFF0000u;
    if ((spread & 0x00007F00u) == 0x00007F00u) result |= 0x00007FFFu;
    return result;
  };
  low = widen(__byte_perm(four, 0, 0x1404));
  high = widen(__byte_perm(four, 0, 0x3424));
#endif
}

// Bytes of two's complement to f16, exactly. selector puts bytes of four into the lower halves of 16 bits: with their
// sign bits turned they read as 1024 + 128 + value under f16's exponent of 1024.
__device__ inline uint32_t int8x2_to_f16x2(uint32_t four, uint32_t selector) {
  const uint32_t biased = __byte_perm(four ^ 0x80808080u, 0x64646464u, selector);
  const __half2 value = __hsub2(*reinterpret_cast<const __half2*>(&biased), __half2half2(__ushort_as_half(0x6480)));
  return *reinterpret_cast<const uint32_t*>(&value);
}

// Nibbles i and i + 4 of eight (i < 4) to f16, exactly; a nibble holds value + 8. Under f16's exponent of 1024 they read
// as 1024 + nibble, or, four bits higher, as 1024 + 16 nibble.
__device__ inline uint32_t int4_pair_to_f16x2(uint32_t eight, int i) {
  const uint32_t four = i < 2 ? eight : eight >> 8;
  uint32_t result;
  if (i % 2 == 0) {
    const uint32_t biased = (four & 0x000F000Fu) | 0x64006400u;
    const __half2 value = __hsub2(*reinterpret_cast<const __half2*>(&biased), __half2half2(__ushort_as_half(0x6408)));
    result = *reinterpret_cast<const uint32_t*>(&value);
  } else {
    const uint32_t biased = (four & 0x00F000F0u) | 0x64006400u;
    const __half2 value = __hfma2(*reinterpret_cast<const __half2*>(&biased),
                                  __half2half2(__ushort_as_half(0x2C00)),   // 1 / 16
                                  __half2half2(__ushort_as_half(0xD480)));  // -(64 + 8)
    result = *reinterpret_cast<const uint32_t*>(&value);
  }
  return result;
}

// Four E5M2 bytes to f16, exactly: E5M2 is f16's upper byte.
__device__ inline void e5m2x4_to_f16x4(uint32_t four, uint32_t& low, uint32_t& high) {
  low = __byte_perm(four, 0, 0x1404);
  high = __byte_perm(four, 0, 0x3424);
}

__device__ inline uint32_t pack_f16x2(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

__device__ inline uint32_t pack_bf16x2(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// 2^x, at most 2 ulp off; 2^-inf = 0.
__device__ inline float exp2_approx(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// --- Global to shared memory -------------------------------------------------------------------------------------

__device__ inline void barrier_init(uint32_t barrier, uint32_t count) {
#if OCTAVO_BULK_COPY
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
#endif
}

// Makes initialised barriers known to the copy engine.
__device__ inline void barrier_init_fence() {
#if OCTAVO_BULK_COPY
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

__device__ inline void barrier_arrive_expect(uint32_t barrier, uint32_t bytes) {
#if OCTAVO_BULK_COPY
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
#endif
}

__device__ inline void barrier_wait(uint32_t barrier, uint32_t parity) {
#if OCTAVO_BULK_COPY
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
#endif
}

// Copies bytes (a multiple of 16) and reports them to barrier. KV is read once: it leaves L2 first.
__device__ inline void bulk_copy(uint32_t destination, const void* source, uint32_t bytes, uint32_t barrier,
                                 uint64_t policy) {
#if OCTAVO_BULK_COPY
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::
          "r"(destination),
      "l"(source), "r"(bytes), "r"(barrier), "l"(policy)
      : "memory");
#endif
}

__device__ inline uint64_t evict_first_policy() {
  uint64_t policy = 0;
#if OCTAVO_BULK_COPY
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
#endif
  return policy;
}

// Orders this thread's shared-memory stores before later copies by the copy engine into the same place.
__device__ inline void fence_before_copy() {
#if OCTAVO_BULK_COPY
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

__device__ inline void copy_16(uint32_t destination, const void* source) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(destination), "l"(source) : "memory");
}

// Zeros where not valid; source is then not read.
__device__ inline void copy_16_or_zero(uint32_t destination, const void* source, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(destination), "l"(source), "r"(valid ? 16 : 0)
               : "memory");
}

__device__ inline void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int kPending>
__device__ inline void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// --- Between kernels and blocks ----------------------------------------------------------------------------------

// Waits until the kernels before this one in the stream have finished and their writes can be seen.
__device__ inline void gpu_wait_for_predecessor() {
#if OCTAVO_BULK_COPY
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next kernel in the stream start its blocks as soon as there is room.
__device__ inline void gpu_release_successor() {
#if OCTAVO_BULK_COPY
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// What other blocks wrote before they released *word is seen afterwards.
__device__ inline uint32_t load_acquire(const uint32_t* word) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
  return value;
}

// Adds 1 to *counter; earlier writes of this thread are seen by whoever sees the new value, and the other way round.
__device__ inline int32_t atomic_increment(int32_t* counter) {
  int32_t before;
  asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
  return before;
}

}  // namespace octavo
