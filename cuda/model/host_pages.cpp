#include "model/host_pages.h"

#include <chrono>
#include <cstring>

#include "model/checked_size.h"

namespace octavo {

HostPages::HostPages(int64_t page_bytes, int32_t num_pages)
    : page_bytes_(page_bytes),
      memory_(checked_product("the host pages",
                              {static_cast<uint64_t>(page_bytes), static_cast<uint64_t>(num_pages)})) {}

void HostPages::run(const Transfer& transfer, KvCache& kv) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  for (int32_t i = 0; i < transfer.num_pages; ++i) {
    uint8_t* page = kv.page(transfer.pages[i]);
    uint8_t* host_page = memory_.data() + transfer.host_pages[i] * page_bytes_;
    const bool saves = transfer.direction == TransferDirection::kSave;
    std::memcpy(saves ? host_page : page, saves ? page : host_page, static_cast<size_t>(page_bytes_));
  }
  stats_.num_submitted += 1;
  count_transfer(stats_, transfer.direction, static_cast<double>(page_bytes_) * transfer.num_pages,
                 std::chrono::duration<double>(Clock::now() - start).count());
}

}  // namespace octavo
