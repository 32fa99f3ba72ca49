// Sizes of the fast prefill kernel's tiles, and where things lie in its shared memory (tests/cuda follows the maps):
//
//   Q: [buffer][warpgroup][column block][64 rows x 128 B] | K stages: [column block][keys x 128 B]
//   | V stages: [granule][column block][16 keys x 128 B] | items | barriers
#pragma once

#include "arch/wgmma_descriptor.h"
#include "kv/granule_address.h"

namespace octavo {

template <bool kBf16_, int kHeadDim_>
struct PrefillWgmmaTile {
  static constexpr bool kBf16 = kBf16_;
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr int kBlocks = kHeadDim / 64;  // column blocks of 64 dims
  static constexpr int kKeys = kHeadDim <= 128 ? 128 : 64;
  static constexpr int kGranules = kKeys / kGranuleTokens;
  static constexpr int kOctets = kKeys / 8;
  static constexpr int kConsumers = kHeadDim <= 64 ? 3 : 2;  // small products: two warpgroups' do not cover a softmax
  static constexpr int kRows = 64 * kConsumers;
  static constexpr int kThreads = 128 * (kConsumers + 1);
  static constexpr int kHalfBytes = half_granule_bytes(2 * kHeadDim);
  static constexpr int kOctetBytes = 8 * kBlockBytes;  // 8 rows of a column block: the tensor core's unit
  static constexpr int kPieceBytes = kGranuleTokens * kBlockBytes;  // a column block of a granule's K
  static constexpr int kQueryBlockBytes = 64 * kBlockBytes;
  static constexpr int kQueryBytes = kBlocks * kQueryBlockBytes;  // of a warpgroup
  static constexpr int kStageBytes = kGranules * kHalfBytes;      // of K or of V
  static constexpr int kQueryBuffers = kHeadDim <= 192 ? 2 : 1;  // 2: the next item's Q waits in its place
  static constexpr int kKeyStages = kHeadDim <= 64 ? 4 : 3;
  static constexpr int kValueStages = kHeadDim <= 64 ? 4 : 2;
  static constexpr int kKeysAt = kQueryBuffers * kConsumers * kQueryBytes;
  static constexpr int kValuesAt = kKeysAt + kKeyStages * kStageBytes;
  static constexpr int kItemSlots = 4;
  static constexpr int kItemBytes = 48;
  static constexpr int kItemsAt = kValuesAt + kValueStages * kStageBytes;
  static constexpr int kBarrierAt = kItemsAt + kItemSlots * kItemBytes;
  // Barriers: for each stage of K and V, each buffer of a warpgroup's Q and each item's slot a full and an empty one.
  static constexpr int kNumFull = kKeyStages + kValueStages + kQueryBuffers * kConsumers + kItemSlots;
  static constexpr int kNumBarriers = 2 * kNumFull;
  static constexpr int kSmemBytes = kBarrierAt + kNumBarriers * 8;
  static constexpr int kLoaderThreads = 64;
  // Of a lane, shared by the warpgroups. Three consumers leave little: some words lie in local memory.
  static constexpr int kRegisters = kConsumers == 2 ? 504 : 512;
  static constexpr int kConsumerRegisters = kConsumers == 3 ? 160 : kHeadDim <= 192 ? 224 : 232;
  static constexpr int kProducerRegisters = kRegisters - kConsumers * kConsumerRegisters;

  // Where a 16-byte chunk of a row of Q goes.
  OCTAVO_HOST_DEVICE static constexpr int query_chunk(int row, int chunk) {
    return chunk / 8 * kQueryBlockBytes + row * kBlockBytes + ((chunk % 8) ^ (row & 7)) * kChunkBytes;
  }

  // Where a column block of a granule's K goes: all keys of one block lie together.
  OCTAVO_HOST_DEVICE static constexpr int key_piece(int granule, int block) {
    return block * kKeys * kBlockBytes + granule * kPieceBytes;
  }

  // Descriptors, and what is added for MMA step d over the dims, or for a granule of keys.
  __device__ static constexpr uint64_t query_descriptor(uint32_t at) { return wgmma_descriptor(at, kOctetBytes, 16); }
  __device__ static constexpr uint64_t key_descriptor(uint32_t at) { return wgmma_descriptor(at, kOctetBytes, 16); }
  __device__ static constexpr uint64_t value_descriptor(uint32_t at) {
    return wgmma_descriptor(at, kOctetBytes, kPieceBytes);
  }
  OCTAVO_HOST_DEVICE static constexpr uint64_t query_step(int d) {
    return (d / 4 * kQueryBlockBytes + d % 4 * 32) / kDescriptorUnit;
  }
  OCTAVO_HOST_DEVICE static constexpr uint64_t key_step(int d) {
    return (d / 4 * kKeys * kBlockBytes + d % 4 * 32) / kDescriptorUnit;
  }
  OCTAVO_HOST_DEVICE static constexpr uint64_t value_step(int granule) { return granule * kHalfBytes / kDescriptorUnit; }

  static_assert(kHeadDim % 64 == 0, "rows are whole column blocks");
  static_assert(kSmemBytes <= 227 * 1024, "the tile does not fit in shared memory");
};

}  // namespace octavo
