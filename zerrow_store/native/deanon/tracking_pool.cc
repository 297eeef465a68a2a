// See tracking_pool.h.
#include "deanon/tracking_pool.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "memory/extents.h"

namespace zerrow {
namespace {

// Up to this size mimalloc 3.4 has four block sizes per doubling, and puts blocks of one size side
// by side (jemalloc too, with a page between them). Each larger block has 64 KiB of mimalloc's own
// in front.
constexpr uint64_t kLargestClass = 512u << 10;

bool IsTracked(int64_t size) {
  return size > 0 && size < INT64_MAX / 2 && Deanon::Tracks(static_cast<uint64_t>(size));
}

int64_t Room(int64_t size) {
  auto bytes = static_cast<uint64_t>(size);
  uint64_t step = bytes <= kLargestClass ? std::bit_floor(bytes - 1) / 4 : 0;
  return static_cast<int64_t>(RoundUp(bytes, std::max(step, kPage)));
}

int64_t Alignment(int64_t alignment) { return std::max(alignment, static_cast<int64_t>(kPage)); }

}  // namespace

arrow::Status TrackingPool::Allocate(int64_t size, int64_t alignment, uint8_t** out) {
  if (!IsTracked(size)) return original_->Allocate(size, alignment, out);
  ARROW_RETURN_NOT_OK(original_->Allocate(Room(size), Alignment(alignment), out));
  Deanon::Track(*out, static_cast<uint64_t>(size), static_cast<uint64_t>(Room(size)));
  return arrow::Status::OK();
}

arrow::Status TrackingPool::Reallocate(int64_t old_size, int64_t new_size, int64_t alignment, uint8_t** ptr) {
  std::optional<TrackedInfo> known = Deanon::At(*ptr);
  if (!known && !IsTracked(new_size)) return original_->Reallocate(old_size, new_size, alignment, ptr);
  if (known && !known->remapped && IsTracked(new_size)) return Resize(*known, new_size, alignment, ptr);
  uint8_t* address;
  ARROW_RETURN_NOT_OK(Allocate(new_size, alignment, &address));
  memcpy(address, *ptr, static_cast<size_t>(std::min(old_size, new_size)));
  Free(*ptr, old_size, alignment);
  *ptr = address;
  return arrow::Status::OK();
}

arrow::Status TrackingPool::Resize(const TrackedInfo& old, int64_t new_size, int64_t alignment,
                                   uint8_t** ptr) {
  int64_t room = Room(new_size);
  auto old_room = static_cast<int64_t>(old.room);
  if (room != old_room) {
    Deanon::Untrack(*ptr);
    arrow::Status status = original_->Reallocate(old_room, room, Alignment(alignment), ptr);
    if (!status.ok()) {
      Deanon::Track(*ptr, old.size, old.room);
      return status;
    }
  }
  Deanon::Track(*ptr, static_cast<uint64_t>(new_size), static_cast<uint64_t>(room));
  return arrow::Status::OK();
}

void TrackingPool::Free(uint8_t* buffer, int64_t size, int64_t alignment) {
  std::optional<TrackedInfo> known = Deanon::At(buffer);
  if (!known)
    original_->Free(buffer, size, alignment);
  else if (Deanon::Untrack(buffer))
    original_->Free(buffer, static_cast<int64_t>(known->room), Alignment(alignment));
}

}  // namespace zerrow
