#include "gemm/weight_memory.h"

#include <mutex>

#include "arch/aligned_buffer.h"

namespace octavo {
namespace {

// Only what is touched is committed, so the unused end of a piece costs nothing.
constexpr size_t kPieceBytes = size_t{64} << 20;
constexpr size_t kAlignment = 64;

std::mutex mutex;
std::weak_ptr<AlignedBuffer> current;
size_t current_used = 0;

}  // namespace

std::shared_ptr<uint8_t[]> allocate_weights(size_t size_bytes) {
  const std::lock_guard<std::mutex> lock(mutex);
  std::shared_ptr<AlignedBuffer> piece = current.lock();
  if (piece == nullptr || size_bytes > piece->size_bytes() - current_used) {
    const bool large = size_bytes >= kPieceBytes;
    auto fresh = std::make_shared<AlignedBuffer>(large ? size_bytes : kPieceBytes);
    if (large) return {fresh, fresh->data()};
    piece = fresh;
    current = piece;
    current_used = 0;
  }
  uint8_t* data = piece->data() + current_used;
  current_used += (size_bytes + kAlignment - 1) / kAlignment * kAlignment;
  return {piece, data};
}

}  // namespace octavo
