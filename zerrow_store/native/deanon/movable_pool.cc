// See movable_pool.h.
#include "deanon/movable_pool.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "memory/extents.h"

namespace zerrow {
namespace {

// Up to here mimalloc 3.4 has four sizes of blocks to a doubling, and puts blocks of the same size side by
// side (jemalloc, too, but with a page between them). Larger ones have 64 KiB of its own in front of each.
constexpr uint64_t kLargestClass = 512u << 10;

bool Wants(int64_t size) {
  return size > 0 && size < INT64_MAX / 2 && Movable::Wants(static_cast<uint64_t>(size));
}

int64_t Room(int64_t size) {
  auto bytes = static_cast<uint64_t>(size);
  uint64_t step = bytes <= kLargestClass ? std::bit_floor(bytes - 1) / 4 : 0;
  return static_cast<int64_t>(RoundUp(bytes, std::max(step, kPage)));
}

int64_t Alignment(int64_t alignment) { return std::max(alignment, static_cast<int64_t>(kPage)); }

}  // namespace

arrow::Status MovablePool::Allocate(int64_t size, int64_t alignment, uint8_t** out) {
  if (!Wants(size)) return original_->Allocate(size, alignment, out);
  ARROW_RETURN_NOT_OK(original_->Allocate(Room(size), Alignment(alignment), out));
  Movable::Add(*out, static_cast<uint64_t>(size), static_cast<uint64_t>(Room(size)));
  return arrow::Status::OK();
}

arrow::Status MovablePool::Reallocate(int64_t old_size, int64_t new_size, int64_t alignment, uint8_t** ptr) {
  std::optional<MovableInfo> known = Movable::At(*ptr);
  if (!known && !Wants(new_size)) return original_->Reallocate(old_size, new_size, alignment, ptr);
  if (known && !known->replaced && Wants(new_size)) return Resize(*known, new_size, alignment, ptr);
  uint8_t* address;
  ARROW_RETURN_NOT_OK(Allocate(new_size, alignment, &address));
  memcpy(address, *ptr, static_cast<size_t>(std::min(old_size, new_size)));
  Free(*ptr, old_size, alignment);
  *ptr = address;
  return arrow::Status::OK();
}

arrow::Status MovablePool::Resize(const MovableInfo& old, int64_t new_size, int64_t alignment,
                                  uint8_t** ptr) {
  int64_t room = Room(new_size);
  auto old_room = static_cast<int64_t>(old.room);
  if (room != old_room) {
    Movable::Remove(*ptr);
    arrow::Status status = original_->Reallocate(old_room, room, Alignment(alignment), ptr);
    if (!status.ok()) {
      Movable::Add(*ptr, old.size, old.room);
      return status;
    }
  }
  Movable::Add(*ptr, static_cast<uint64_t>(new_size), static_cast<uint64_t>(room));
  return arrow::Status::OK();
}

void MovablePool::Free(uint8_t* buffer, int64_t size, int64_t alignment) {
  std::optional<MovableInfo> known = Movable::At(buffer);
  if (!known)
    original_->Free(buffer, size, alignment);
  else if (Movable::Remove(buffer))
    original_->Free(buffer, static_cast<int64_t>(known->room), Alignment(alignment));
}

}  // namespace zerrow
