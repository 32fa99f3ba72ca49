// How the launch code finds the kernels, which are compiled in files of their own.
#pragma once

#include "gemm/stream_matmul.h"

namespace octavo {

// params nullptr: only lets the kernel use its shared memory.
using StreamLauncher = void (*)(const StreamParams* params, GpuStream stream, bool overlap);

// columns: 8, 16, .. stream_max_columns() of the types. E4M3 activations are Hopper's only.
StreamLauncher find_stream_bf16(int columns, bool hopper);
StreamLauncher find_stream_f16(int columns, bool hopper);
StreamLauncher find_stream_e4m3_bf16(int columns, bool hopper);
StreamLauncher find_stream_e4m3_f16(int columns, bool hopper);
StreamLauncher find_stream_e4m3(int columns, bool hopper);

}  // namespace octavo
