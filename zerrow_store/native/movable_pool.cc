// See movable_pool.h.
#include "movable_pool.h"

#include <algorithm>
#include <cstring>

#include "movable.h"

namespace zerrow {

arrow::Status MovablePool::Allocate(int64_t size, int64_t alignment, uint8_t** out) {
  ARROW_RETURN_NOT_OK(original_->Allocate(size, alignment, out));
  Movable::Add(*out, static_cast<uint64_t>(size));
  return arrow::Status::OK();
}

arrow::Status MovablePool::Reallocate(int64_t old_size, int64_t new_size, int64_t alignment, uint8_t** ptr) {
  if (!Movable::IsReplaced(*ptr)) {
    Movable::Remove(*ptr);
    arrow::Status status = original_->Reallocate(old_size, new_size, alignment, ptr);
    Movable::Add(*ptr, static_cast<uint64_t>(status.ok() ? new_size : old_size));
    return status;
  }
  uint8_t* address;
  ARROW_RETURN_NOT_OK(Allocate(new_size, alignment, &address));
  memcpy(address, *ptr, static_cast<size_t>(std::min(old_size, new_size)));
  Free(*ptr, old_size, alignment);
  *ptr = address;
  return arrow::Status::OK();
}

void MovablePool::Free(uint8_t* buffer, int64_t size, int64_t alignment) {
  if (Movable::Remove(buffer)) original_->Free(buffer, size, alignment);
}

}  // namespace zerrow
