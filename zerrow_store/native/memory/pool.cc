// See pool.h.
#include "memory/pool.h"

#include <algorithm>
#include <cstring>

#include "memory/arena.h"

namespace zerrow {

ArenaPool::ArenaPool(arrow::MemoryPool* original) : original_(original) {
  // Memory that is allocated there by now will be freed through this pool.
  if (original->bytes_allocated() > 0) stats_.DidAllocateBytes(original->bytes_allocated());
}

uint8_t* ArenaPool::TryArena(int64_t size, int64_t alignment) const {
  if (!on_ || size <= 0 || alignment > static_cast<int64_t>(kPage)) return nullptr;
  Arena* arena = Arena::Get();
  if (arena == nullptr) return nullptr;
  auto bytes = static_cast<uint64_t>(size);
  // Slots are aligned to 64 bytes, extents to pages.
  if (alignment > 64) bytes = std::max(bytes, kSlotMax + 1);
  return arena->Allocate(bytes, Origin::kArrow);
}

arrow::Status ArenaPool::Allocate(int64_t size, int64_t alignment, uint8_t** out) {
  uint8_t* address = TryArena(size, alignment);
  if (address != nullptr)
    *out = address;
  else
    ARROW_RETURN_NOT_OK(original_->Allocate(size, alignment, out));
  stats_.DidAllocateBytes(size);
  return arrow::Status::OK();
}

arrow::Status ArenaPool::Reallocate(int64_t old_size, int64_t new_size, int64_t alignment, uint8_t** ptr) {
  uint8_t* old = *ptr;
  Arena* owner = Arena::Owner(old);
  bool in_place = owner != nullptr && on_ && new_size > 0 && alignment <= 64 &&
                  owner->Resize(old, static_cast<uint64_t>(new_size));
  if (!in_place) {
    uint8_t* address = TryArena(new_size, alignment);
    if (address == nullptr && owner == nullptr) {
      ARROW_RETURN_NOT_OK(original_->Reallocate(old_size, new_size, alignment, ptr));
    } else {
      if (address == nullptr) ARROW_RETURN_NOT_OK(original_->Allocate(new_size, alignment, &address));
      memcpy(address, old, static_cast<size_t>(std::min(old_size, new_size)));
      if (owner != nullptr)
        owner->Free(old);
      else
        original_->Free(old, old_size, alignment);
      *ptr = address;
    }
  }
  stats_.DidReallocateBytes(old_size, new_size);
  return arrow::Status::OK();
}

void ArenaPool::Free(uint8_t* buffer, int64_t size, int64_t alignment) {
  if (Arena* owner = Arena::Owner(buffer))
    owner->Free(buffer);
  else
    original_->Free(buffer, size, alignment);
  stats_.DidFreeBytes(size);
}

void ArenaPool::ReleaseUnused() {
  if (Arena* arena = Arena::Current()) arena->Trim(0);
  original_->ReleaseUnused();
}

}  // namespace zerrow
