// A GPU engine's host pages: pinned memory, and a stream of their own for the copies.
//
//   steps      | step n                 | step n+1 uses page p ...        | ...
//   transfers      | save p, q | restore r |
//                              `- step n+1 starts after the save of p, whatever becomes of r
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "arch/gpu_graph.h"
#include "arch/gpu_memory.h"
#include "model/device_kv_cache.h"
#include "model/step_buffer.h"
#include "model/transfer.h"

namespace octavo {

class DeviceHostPages {
 public:
  // num_pages: of the cache. Throws Error.
  DeviceHostPages(int64_t page_bytes, int32_t num_host_pages, int32_t num_pages);
  ~DeviceHostPages();

  // Enqueues the copies. The transfer is checked.
  void enqueue(const Transfer& transfer, const DeviceKvCache& kv);

  // Makes the stream wait for the transfers of pages that the step reads or writes. Before the step is enqueued.
  void hold_back(const StepView& step, const octavo_engine_config& config, GpuStream stream);

  octavo_transfer_stats stats();

  // Until all transfers have finished.
  void wait() const { stream_.wait(); }

  // What the host page holds after all transfers.
  const uint8_t* page(int32_t host_page) const;

 private:
  struct Flight {
    GpuTimer start;
    GpuTimer end;
    TransferDirection direction;
    double bytes;
  };

  void take_finished();

  int64_t page_bytes_;
  PinnedMemory memory_;
  GpuStreamOwner stream_;
  std::deque<std::unique_ptr<Flight>> flights_;  // oldest first: transfer number stats_.num_finished + 1 and on
  std::vector<std::unique_ptr<Flight>> spare_;
  std::vector<int64_t> last_transfer_;  // of each page, counted from 1; 0: none
  octavo_transfer_stats stats_ = {};
};

}  // namespace octavo
