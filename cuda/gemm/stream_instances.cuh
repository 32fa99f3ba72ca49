// The kernels of one pair of types, for every width; a .cu file each.
#pragma once

#include "gemm/stream_kernel.cuh"
#include "gemm/stream_launcher.h"

namespace octavo {

// As gpu_launch, but on Hopper in clusters of a tile's blocks; of one block too, without which the launch is refused.
template <class Tile>
void launch_stream(const StreamParams& params, GpuStream stream, bool overlap) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(params.plan.num_groups * params.plan.split));
  config.blockDim = dim3(Tile::kThreads);
  config.dynamicSmemBytes = Tile::kSmemBytes;
  config.stream = stream;
  cudaLaunchAttribute attributes[2] = {};
  unsigned count = 0;
  if (Tile::kHopper) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim = {static_cast<unsigned>(params.plan.split), 1, 1};
    ++count;
  }
  if (overlap && gpu_device().compute_major >= 9) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count].val.programmaticStreamSerializationAllowed = 1;
    ++count;
  }
  config.attrs = attributes;
  config.numAttrs = count;
  OCTAVO_GPU_CHECK(cudaLaunchKernelEx(&config, stream_kernel<Tile>, params));
}

// Launches (or, with nullptr, prepares) the kernel for `columns` tokens.
template <int kWeight, int kActivation, bool kHopper, int kColumns>
void launch_stream_at(const StreamParams* params, GpuStream stream, bool overlap) {
  using Tile = StreamTile<kWeight, kActivation, kColumns, kHopper>;
  if (params == nullptr)
    gpu_allow_smem(stream_kernel<Tile>, Tile::kSmemBytes);
  else
    launch_stream<Tile>(*params, stream, overlap);
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
