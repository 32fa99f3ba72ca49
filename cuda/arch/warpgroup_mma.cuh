// d[64 x kColumns] (+)= a[64 x k] b[k x kColumns] by one warpgroup, f32 sums; 32 bytes of the contracted axis a call.
// b, and a in the *_shared forms, are shared-memory operands (stream_descriptor); a in registers is laid out as for
// mma.m16n8k16, each warp 16 rows. d: [kColumns / 8][4], element (row g (+ 8 for 2, 3), column 2t (+ 1 for 1, 3)).
//
// An inline statement must spell every register, so the widths come from one macro and its lists of operands.
#pragma once

#include "arch/wgmma.cuh"

namespace octavo {

template <int kColumns>
struct WarpgroupMma;

#if OCTAVO_WGMMA

#define OCTAVO_NAMES_4 "%0, %1, %2, %3"
#define OCTAVO_NAMES_8 \
  OCTAVO_NAMES_4 \
  ", %4, %5, %6, %7"
#define OCTAVO_NAMES_16 \
  OCTAVO_NAMES_8 \
  ", %8, %9, %10, %11, %12, %13, %14, %15"
#define OCTAVO_NAMES_32 \
  OCTAVO_NAMES_16 \
  ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define OCTAVO_NAMES_64 \
  OCTAVO_NAMES_32 \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
  ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define OCTAVO_NAMES_128 \
  OCTAVO_NAMES_64 \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
  ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95" \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

#define OCTAVO_SUMS_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define OCTAVO_SUMS_8(i) OCTAVO_SUMS_4(i), OCTAVO_SUMS_4(i + 4)
#define OCTAVO_SUMS_16(i) OCTAVO_SUMS_8(i), OCTAVO_SUMS_8(i + 8)
#define OCTAVO_SUMS_32(i) OCTAVO_SUMS_16(i), OCTAVO_SUMS_16(i + 16)
#define OCTAVO_SUMS_64(i) OCTAVO_SUMS_32(i), OCTAVO_SUMS_32(i + 32)
#define OCTAVO_SUMS_128(i) OCTAVO_SUMS_64(i), OCTAVO_SUMS_64(i + 64)

// suffix: what follows the operands (scales of a and b; of 16-bit types which operands are transposed).
#define OCTAVO_MMA_SHARED(function, shape, types, sums, in0, in1, in2, suffix)                                    \
  __device__ static void function(float (&d)[sums], uint64_t a, uint64_t b, bool accumulate) {                    \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " in2 ", 0;\n"                                                \
                 "wgmma.mma_async.sync.aligned." shape ".f32." types " {" OCTAVO_NAMES_##sums "}, " in0 ", " in1  \
                 ", p, " suffix ";\n}\n"                                                                          \
                 : OCTAVO_SUMS_##sums(0)                                                                          \
                 : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));                                            \
  }

#define OCTAVO_MMA_REGISTERS(function, shape, types, sums, in0, in1, in2, in3, in4, in5)                          \
  __device__ static void function(float (&d)[sums], const uint32_t (&a)[4], uint64_t b, bool accumulate) {        \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " in5 ", 0;\n"                                                \
                 "wgmma.mma_async.sync.aligned." shape ".f32." types " {" OCTAVO_NAMES_##sums "}, {" in0 ", " in1 \
                 ", " in2 ", " in3 "}, " in4 ", p, 1, 1, 0;\n}\n"                                                 \
                 : OCTAVO_SUMS_##sums(0)                                                                          \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)));        \
  }

#define OCTAVO_WARPGROUP_MMA_OF(columns, sums, i0, i1, i2, i3, i4, i5)                                            \
  template <>                                                                                                     \
  struct WarpgroupMma<columns> {                                                                                  \
    OCTAVO_MMA_SHARED(bf16_shared, "m64n" #columns "k16", "bf16.bf16", sums, i0, i1, i2, "1, 1, 0, 0")            \
    OCTAVO_MMA_SHARED(f16_shared, "m64n" #columns "k16", "f16.f16", sums, i0, i1, i2, "1, 1, 0, 0")               \
    OCTAVO_MMA_SHARED(e4m3_shared, "m64n" #columns "k32", "e4m3.e4m3", sums, i0, i1, i2, "1, 1")                  \
    OCTAVO_MMA_REGISTERS(bf16_registers, "m64n" #columns "k16", "bf16.bf16", sums, i0, i1, i2, i3, i4, i5)        \
    OCTAVO_MMA_REGISTERS(f16_registers, "m64n" #columns "k16", "f16.f16", sums, i0, i1, i2, i3, i4, i5)           \
  };

OCTAVO_WARPGROUP_MMA_OF(8, 4, "%4", "%5", "%6", "%7", "%8", "%9")
OCTAVO_WARPGROUP_MMA_OF(16, 8, "%8", "%9", "%10", "%11", "%12", "%13")
OCTAVO_WARPGROUP_MMA_OF(32, 16, "%16", "%17", "%18", "%19", "%20", "%21")
OCTAVO_WARPGROUP_MMA_OF(64, 32, "%32", "%33", "%34", "%35", "%36", "%37")
OCTAVO_WARPGROUP_MMA_OF(128, 64, "%64", "%65", "%66", "%67", "%68", "%69")
OCTAVO_WARPGROUP_MMA_OF(256, 128, "%128", "%129", "%130", "%131", "%132", "%133")

#undef OCTAVO_WARPGROUP_MMA_OF
#undef OCTAVO_MMA_REGISTERS
#undef OCTAVO_MMA_SHARED

#endif

}  // namespace octavo
