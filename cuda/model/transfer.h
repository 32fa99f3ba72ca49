// Copies of whole pages between the KV cache and host memory, as the ABI asks for them.
#pragma once

#include <cstdint>

#include "octavo.h"

namespace octavo {

enum class TransferDirection { kSave, kRestore };

// pages[i] to or from host_pages[i].
struct Transfer {
  TransferDirection direction;
  const int32_t* pages;       // [num_pages]
  const int32_t* host_pages;  // [num_pages]
  int32_t num_pages;
};

// Throw Error (OCTAVO_INVALID_ARGUMENT) naming the page that config does not have, or the size that a page has not.
void check_transfer(const octavo_engine_config& config, const Transfer& transfer);
void check_cache_page(const octavo_engine_config& config, int32_t page);
void check_host_page(const octavo_engine_config& config, int32_t host_page, double size_bytes, int64_t page_bytes);

// Notes a finished transfer.
void count_transfer(octavo_transfer_stats& stats, TransferDirection direction, double bytes, double seconds);

}  // namespace octavo
