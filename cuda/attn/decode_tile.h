// Tile sizes of the attention kernel, chosen at compile time from what fits a block's shared memory.
#pragma once

#include "attn/plan_types.h"
#include "kv/format.h"
#include "kv/granule_address.h"

namespace octavo {

// Shared memory a block may use: compute capability 9.0 and 10.0 have 227 KB, the other cards at least 99 KB.
constexpr int kWideSmemBytes = 227 * 1024;
constexpr int kNarrowSmemBytes = 99 * 1024;

struct TileChoice {
  int warps;
  int stages;         // steps a warp has in flight or in use
  int merge_buffers;  // 2: one block barrier per merge, 1: two
};

// Most warps first (each hides the others' latency), then a second merge buffer, then more stages.
constexpr TileChoice choose_tile(int step_bytes, int merge_bytes_per_warp, int query_bytes, int budget, int max_warps) {
  for (int warps = max_warps; warps >= 1; warps /= 2) {
    for (int buffers = 2; buffers >= 1; --buffers) {
      for (int stages = 4; stages >= 2; --stages) {
        const int bytes =
            warps * (stages * step_bytes + buffers * merge_bytes_per_warp + stages * 8) + query_bytes + 1024;
        if (bytes <= budget) return {warps, stages, buffers};
      }
    }
  }
  return {0, 0, 0};
}

// Stored: a format of kv/stored.cuh. kTiles: MMA column tiles, 8 columns (query token, q head) each.
template <class Stored_, int kHeadDim_, int kTiles_, bool kWide_>
struct DecodeTile {
  using Stored = Stored_;
  static constexpr int kHeadDim = kHeadDim_;

  // Of a granule's K or V.
  static constexpr int scales_bytes(KvScales scales) {
    return kGranuleTokens * (scales == KvScales::kNone  ? 0
                             : scales == KvScales::kRow ? 4
                                                        : kHeadDim / kGroupDims * 2);
  }

  static constexpr int kTiles = kTiles_;
  static constexpr bool kWide = kWide_;
  static constexpr int kColumns = 8 * kTiles;
  // A granule: | K codes | V codes | K scales | V scales |
  static constexpr int kKeyRowBytes = round_up_to_chunk(kHeadDim * Stored::kKeyBits / 8);
  static constexpr int kValueRowBytes = round_up_to_chunk(kHeadDim * Stored::kValueBits / 8);
  static constexpr int kValueAt = half_granule_bytes(kKeyRowBytes);
  static constexpr int kKeyScalesAt = kValueAt + half_granule_bytes(kValueRowBytes);
  static constexpr int kValueScalesAt = kKeyScalesAt + scales_bytes(Stored::kKeyScales);
  static constexpr int kGranuleBytes = kValueScalesAt + scales_bytes(Stored::kValueScales);
  static constexpr int kValueChunks = kValueRowBytes / kChunkBytes;
  static constexpr int kKeyChunks = kKeyRowBytes / kChunkBytes;
  static constexpr int kKeyPairs = (kKeyChunks + 1) / 2;  // chunk pairs of a row, one ldmatrix.x4 each
  static constexpr int kValuePairs = (kValueChunks + 1) / 2;
  // Parts of V's dims that have scales of their own, and thus units of the sums.
  static constexpr int kUnits = Stored::kValueScales == KvScales::kGroups ? kHeadDim / kGroupDims : 1;
  static constexpr int kDimSteps = kHeadDim / 16;   // MMA steps over the head dim
  // About 8 KB a step: what a step costs besides its keys is spread over enough bytes, and granules give independent
  // MMA chains. Tiles with many sums have no registers for more than one.
  static constexpr int kGranules = kTiles == 4 || kDimSteps * kTiles > 24 ? 1
                                   : kKeyScalesAt <= 2048                 ? 4
                                   : kKeyScalesAt <= 4096                 ? 2
                                                                          : 1;
  static constexpr int kStepTokens = kGranules * kGranuleTokens;
  static constexpr int kStepBytes = kGranules * kGranuleBytes;
  // Four column tiles, and two where K's groups have scales, leave no registers for Q: it is read from shared memory each
  // step.
  static constexpr bool kQueryInRegisters = kDimSteps * kTiles <= (Stored::kKeyScales == KvScales::kGroups ? 8 : 16);
  static constexpr int kQueryBytes = kDimSteps * kTiles * 32 * 8;  // as fragments
  static constexpr int kMergeStride = kHeadDim + 4;  // floats; + 4 keeps the fragments' stores free of bank conflicts
  static constexpr int kMergeBytes = 8 * kMergeStride * 4 + 8 * 8;  // one warp's 8 columns and their (max, sum)
  static constexpr TileChoice kChoice =
      choose_tile(kStepBytes, kMergeBytes, 2 * kQueryBytes, kWide ? kWideSmemBytes : kNarrowSmemBytes, 8);
  static constexpr int kWarps = kChoice.warps;
  static constexpr int kStages = kChoice.stages;
  static constexpr int kMergeBuffers = kChoice.merge_buffers;
  static constexpr int kThreads = kWarps * 32;
  // Q comes, and results are merged, four dims of a column at a time; the rotation of more than 128 dims goes across
  // two such quads of a thread.
  static constexpr int kQuadParts = Stored::kMayRotate && rotation_block(kHeadDim) > 128 ? 2 : 1;
  static constexpr int kColumnQuads = kHeadDim / 4 / kQuadParts;
  static constexpr int kQueryQuads = kColumns * kColumnQuads;
  static constexpr int kQueryShare = (kQueryQuads + kThreads - 1) / kThreads;  // of a thread
  // The next item's Q waits in registers for its place in shared memory where a thread's share is small.
  static constexpr bool kQueryAhead = kQueryShare <= (Stored::kMayRotate ? 1 : 2);

  // Shared memory: rings | Q, two buffers | merge buffers | the block's range | barriers
  static constexpr int kRingBytes = kWarps * kStages * kStepBytes;
  static constexpr int kQueryAt = kRingBytes;
  static constexpr int kMergeAt = kQueryAt + 2 * kQueryBytes;
  static constexpr int kRangeAt = kMergeAt + kMergeBuffers * kWarps * kMergeBytes;
  static constexpr int kBarrierAt = kRangeAt + static_cast<int>(sizeof(PlanRange));
  static constexpr int kSmemBytes = kBarrierAt + kWarps * kStages * 8;
  static constexpr int kSlotFloats = kColumns * (kHeadDim / 4) * 6;  // a partial result: sums, then (max, sum) of each 4

  static_assert(kHeadDim % 16 == 0, "the MMA takes 16 dims at a time");
  static_assert(kUnits == 1 || kHeadDim % kGroupDims == 0, "4-bit codes come in groups of 32 dims");
  static_assert(kWarps > 0, "the tile does not fit in shared memory");
};

}  // namespace octavo
