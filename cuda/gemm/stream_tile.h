// Sizes of the streaming products: what one block works on and how its shared memory is laid out.
#pragma once

#include <cstdint>

#include "octavo.h"

namespace octavo {

constexpr int kStreamRows = 128;       // rows of W a tile
constexpr int kStreamStepBytes = 128;  // of each row of W in one step: a whole swizzle span, a whole cache line
constexpr int kStreamWarps = 8;        // that compute; 16 rows each
constexpr int kStreamThreads = kStreamWarps * 32;
constexpr int kStreamExchangeColumns = 64;  // tokens whose sums the blocks of a tile exchange at once
constexpr int kStreamMaxSplit = 8;          // blocks of a tile

constexpr int stream_element_bytes(int dtype) { return dtype == OCTAVO_F8_E4M3 ? 1 : 2; }

// Bytes of one buffer of sums from all blocks of a tile, of products of `columns` tokens.
constexpr int stream_exchange_bytes(int columns) {
  return kStreamRows * (columns < kStreamExchangeColumns ? columns : kStreamExchangeColumns) * 4;
}

// kWeight, kActivation: octavo_dtype of W and x. kColumns: tokens of one product, a multiple of 8. kHopper: tensor copies
// by a warp of its own and warpgroup MMA (9.0a), else asynchronous copies and mma.sync.
//
//   stage:  W [128 rows][128 bytes] | x [panel][kColumns tokens][128 bytes]     chunk c of a row lies at c ^ (row & 7)
//   memory: stages | Hopper: full and empty barrier of each stage
template <int kWeightType, int kActivationType, int kTokens, bool kOnHopper>
struct StreamTile {
  static constexpr int kWeight = kWeightType;
  static constexpr int kActivation = kActivationType;
  static constexpr int kColumns = kTokens;
  static constexpr bool kHopper = kOnHopper;
  static constexpr int kWeightElement = stream_element_bytes(kWeight);  // bytes
  static constexpr int kXElement = stream_element_bytes(kActivation);
  static constexpr int kStepCols = kStreamStepBytes / kWeightElement;
  static constexpr int kPanels = kXElement / kWeightElement;  // 2: E4M3 weights, 16-bit x
  static constexpr int kWeightBytes = kStreamRows * kStreamStepBytes;
  static constexpr int kPanelBytes = kColumns * 128;
  static constexpr int kStageBytes = kWeightBytes + kPanels * kPanelBytes;
  static constexpr int kExchangeBytes = stream_exchange_bytes(kColumns);
  // All of Hopper's 227 KB: two blocks on a multiprocessor, with half of it each, took 6 to 14 % longer. Elsewhere 99 KB
  // must do (8.6 to 8.9, 12.0).
  static constexpr int kRingBytes = (kHopper ? 226 : 96) * 1024;
  static constexpr int kStages = kRingBytes / kStageBytes < 12 ? kRingBytes / kStageBytes : 12;
  static constexpr int kBarriersAt = kStages * kStageBytes;
  static constexpr int kSmemBytes = kBarriersAt + 2 * kStages * 8;
  static constexpr int kThreads = kStreamThreads + (kHopper ? 32 : 0);
  static constexpr int kSums = kColumns / 2;  // f32 sums of a thread
  static_assert(kPanels >= 1 && kStages >= 3, "a stage does not fit");
};

}  // namespace octavo
