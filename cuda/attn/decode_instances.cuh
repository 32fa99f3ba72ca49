// Launches of the attention kernel for one stored format; each format's instances are a file of their own.
#pragma once

#include "attn/decode_kernel.cuh"
#include "attn/decode_launcher.h"

namespace octavo {

template <class Tile>
void launch_decode(const DecodeParams& params, int num_ranges, GpuStream stream, bool overlap) {
  gpu_allow_smem(decode_kernel<Tile>, Tile::kSmemBytes);
  gpu_launch(decode_kernel<Tile>, num_ranges, Tile::kThreads, Tile::kSmemBytes, stream, overlap, params);
}

template <class Tile>
constexpr DecodeLauncher decode_launcher() {
  return {launch_decode<Tile>, Tile::kStepTokens, Tile::kSlotFloats, {Tile::kWarps, Tile::kStages, Tile::kGranules}};
}

template <class Stored, int kHeadDim>
DecodeLauncher find_decode_tiles(int tiles, bool wide) {
  if (tiles == 1)
    return wide ? decode_launcher<DecodeTile<Stored, kHeadDim, 1, true>>()
                : decode_launcher<DecodeTile<Stored, kHeadDim, 1, false>>();
  if (tiles == 2)
    return wide ? decode_launcher<DecodeTile<Stored, kHeadDim, 2, true>>()
                : decode_launcher<DecodeTile<Stored, kHeadDim, 2, false>>();
  if constexpr (kHeadDim <= 128) {
    if (tiles == 4)
      return wide ? decode_launcher<DecodeTile<Stored, kHeadDim, 4, true>>()
                  : decode_launcher<DecodeTile<Stored, kHeadDim, 4, false>>();
  }
  return {};
}

template <class Stored>
DecodeLauncher find_decode(int head_dim, int tiles, bool wide) {
  constexpr bool kAnyDim = Stored::kValueScales != KvScales::kGroups;
  switch (head_dim) {
    case 64:
      return find_decode_tiles<Stored, 64>(tiles, wide);
    case 80:
      if constexpr (kAnyDim) return find_decode_tiles<Stored, 80>(tiles, wide);
      return {};
    case 96:
      return find_decode_tiles<Stored, 96>(tiles, wide);
    case 112:
      if constexpr (kAnyDim) return find_decode_tiles<Stored, 112>(tiles, wide);
      return {};
    case 192:
      return find_decode_tiles<Stored, 192>(tiles, wide);
    case 256:
      return find_decode_tiles<Stored, 256>(tiles, wide);
    case 128:
      return find_decode_tiles<Stored, 128>(tiles, wide);
    default:
      return {};
  }
}

}  // namespace octavo
