// The CPU build's host pages: memory of the same kind as the KV cache's, but none that a step reads. Memory is committed as
// pages are first saved.
#pragma once

#include <cstdint>

#include "arch/aligned_buffer.h"
#include "model/kv_cache.h"
#include "model/transfer.h"
#include "octavo.h"

namespace octavo {

class HostPages {
 public:
  // Throws Error (OCTAVO_OUT_OF_MEMORY).
  HostPages(int64_t page_bytes, int32_t num_pages);

  // Copies at once. The transfer is checked.
  void run(const Transfer& transfer, KvCache& kv);

  const uint8_t* page(int32_t host_page) const { return memory_.data() + host_page * page_bytes_; }
  const octavo_transfer_stats& stats() const { return stats_; }

 private:
  int64_t page_bytes_;
  AlignedBuffer memory_;
  octavo_transfer_stats stats_ = {};
};

}  // namespace octavo
