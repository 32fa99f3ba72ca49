// What the processor offers, found once at load.
#pragma once

namespace octavo {

// Code paths, each a superset of the one before.
enum class Isa {
  kPortable,    // baseline x86-64, or another architecture
  kAvx2,        // AVX2, FMA, F16C
  kAvx512,      // AVX-512 F, BW, DQ, VL
  kAvx512Vnni,  // + AVX-512 VNNI
};

// The best path this processor runs, or the one the environment variable OCTAVO_ISA names (portable, avx2, avx512,
// avx512_vnni), if the processor has it. Throws Error for an unknown or unsupported name.
Isa isa();
const char* isa_name(Isa isa);

// Physical cores among the processors this process may run on, limited by the cgroup's CPU quota; at least 1.
int physical_cores();

// threads > 0 as given, 0 = physical_cores(). Throws Error unless 0 <= threads <= 1024.
int resolve_num_threads(int threads);

}  // namespace octavo
