#include "model/device_host_pages.h"

#include <algorithm>

#include "model/checked_size.h"
#include "model/kv_dtypes.h"

namespace octavo {

DeviceHostPages::DeviceHostPages(int64_t page_bytes, int32_t num_host_pages, int32_t num_pages)
    : page_bytes_(page_bytes),
      memory_(checked_product("the host pages",
                              {static_cast<uint64_t>(page_bytes), static_cast<uint64_t>(num_host_pages)})),
      last_transfer_(num_host_pages > 0 ? static_cast<size_t>(num_pages) : 0) {}

DeviceHostPages::~DeviceHostPages() { cudaStreamSynchronize(stream_.get()); }

void DeviceHostPages::enqueue(const Transfer& transfer, const DeviceKvCache& kv) {
  take_finished();
  if (spare_.empty()) spare_.push_back(std::make_unique<Flight>());
  Flight& flight = *spare_.back();
  flight.direction = transfer.direction;
  flight.bytes = static_cast<double>(page_bytes_) * transfer.num_pages;
  const bool saves = transfer.direction == TransferDirection::kSave;
  const int64_t number = static_cast<int64_t>(stats_.num_submitted) + 1;
  flight.start.record(stream_.get());
  for (int32_t i = 0; i < transfer.num_pages; ++i) {
    uint8_t* page = kv.page(transfer.pages[i]);
    uint8_t* host_page = memory_.as<uint8_t>() + transfer.host_pages[i] * page_bytes_;
    OCTAVO_GPU_CHECK(cudaMemcpyAsync(saves ? host_page : page, saves ? page : host_page,
                                     static_cast<size_t>(page_bytes_),
                                     saves ? cudaMemcpyDeviceToHost : cudaMemcpyHostToDevice, stream_.get()));
    last_transfer_[static_cast<size_t>(transfer.pages[i])] = number;
  }
  flight.end.record(stream_.get());
  flights_.push_back(std::move(spare_.back()));
  spare_.pop_back();
  stats_.num_submitted += 1;
}

void DeviceHostPages::hold_back(const StepView& step, const octavo_engine_config& config, GpuStream stream) {
  take_finished();
  if (flights_.empty()) return;
  int64_t last = 0;
  for (int32_t s = 0; s < step.num_seqs(); ++s) {
    const int32_t* row = step.page_table + int64_t{s} * config.max_pages_per_seq;
    const int32_t num_pages = (step.seq_len[s] - 1) / page_size_of(config, step.kv_index[s]) + 1;
    for (int32_t i = 0; i < num_pages; ++i) last = std::max(last, last_transfer_[static_cast<size_t>(row[i])]);
  }
  const int64_t num_finished = static_cast<int64_t>(stats_.num_finished);
  if (last > num_finished) flights_[static_cast<size_t>(last - num_finished - 1)]->end.hold_back(stream);
}

octavo_transfer_stats DeviceHostPages::stats() {
  take_finished();
  return stats_;
}

const uint8_t* DeviceHostPages::page(int32_t host_page) const {
  stream_.wait();
  return memory_.as<uint8_t>() + host_page * page_bytes_;
}

void DeviceHostPages::take_finished() {
  while (!flights_.empty() && flights_.front()->end.has_passed()) {
    const Flight& flight = *flights_.front();
    count_transfer(stats_, flight.direction, flight.bytes, flight.end.seconds_since(flight.start));
    spare_.push_back(std::move(flights_.front()));
    flights_.pop_front();
  }
}

}  // namespace octavo
