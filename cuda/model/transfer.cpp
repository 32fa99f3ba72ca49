#include "model/transfer.h"

#include "arch/error.h"

namespace octavo {
namespace {

void check_page(const char* name, int32_t page, int32_t num_pages) {
  if (page >= 0 && page < num_pages) return;
  fail(OCTAVO_INVALID_ARGUMENT, "%s must be 0 to %d, found %d", name, num_pages - 1, page);
}

}  // namespace

void check_transfer(const octavo_engine_config& config, const Transfer& transfer) {
  for (int32_t i = 0; i < transfer.num_pages; ++i) {
    check_page("a page of a transfer", transfer.pages[i], config.num_pages);
    check_page("a host page of a transfer", transfer.host_pages[i], config.num_host_pages);
  }
}

void check_cache_page(const octavo_engine_config& config, int32_t page) { check_page("page", page, config.num_pages); }

void check_host_page(const octavo_engine_config& config, int32_t host_page, double size_bytes, int64_t page_bytes) {
  check_page("host_page", host_page, config.num_host_pages);
  if (size_bytes == static_cast<double>(page_bytes)) return;
  fail(OCTAVO_INVALID_ARGUMENT, "a host page has %lld bytes, found size_bytes %.0f", static_cast<long long>(page_bytes),
       size_bytes);
}

void count_transfer(octavo_transfer_stats& stats, TransferDirection direction, double bytes, double seconds) {
  stats.num_finished += 1;
  (direction == TransferDirection::kSave ? stats.saved_bytes : stats.restored_bytes) += bytes;
  (direction == TransferDirection::kSave ? stats.saved_seconds : stats.restored_seconds) += seconds;
}

}  // namespace octavo
