// The kernels of one pair of types, for every width; a .cu file each.
#pragma once

#include "gemm/stream_kernel.cuh"
#include "gemm/stream_launcher.h"

namespace octavo {

// Launches (or, with nullptr, prepares) the kernel for `columns` tokens.
template <int kWeight, int kActivation, bool kHopper, int kColumns>
void launch_stream_at(const StreamParams* params, GpuStream stream, bool overlap) {
  using Tile = StreamTile<kWeight, kActivation, kColumns, kHopper>;
  if (params == nullptr)
    gpu_allow_smem(stream_kernel<Tile>, Tile::kSmemBytes);
  else
    gpu_launch(stream_kernel<Tile>, params->plan.num_groups * params->plan.split, Tile::kThreads, Tile::kSmemBytes,
               stream, overlap, *params);
}

template <int kWeight, int kActivation>
StreamLauncher find_stream_launcher(int columns, bool hopper) {
  if (hopper) {
    switch (columns) {
      case 8: return launch_stream_at<kWeight, kActivation, true, 8>;
      case 16: return launch_stream_at<kWeight, kActivation, true, 16>;
      case 32: return launch_stream_at<kWeight, kActivation, true, 32>;
      case 64: return launch_stream_at<kWeight, kActivation, true, 64>;
      case 128: return launch_stream_at<kWeight, kActivation, true, 128>;
    }
  } else if constexpr (kActivation != OCTAVO_F8_E4M3) {
    switch (columns) {
      case 8: return launch_stream_at<kWeight, kActivation, false, 8>;
      case 16: return launch_stream_at<kWeight, kActivation, false, 16>;
      case 32: return launch_stream_at<kWeight, kActivation, false, 32>;
      case 64: return launch_stream_at<kWeight, kActivation, false, 64>;
    }
  }
  fail(OCTAVO_INTERNAL, "no product kernel for %d tokens", columns);
}

}  // namespace octavo
