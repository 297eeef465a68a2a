// A memory pool in front of another one, which makes what that allocates known to Movable.
//
// It asks for whole pages, and for as many as fill the block that mimalloc, Arrow's default, would
// take for them anyway: then buffers that follow each other leave no gap, and KernelZero moves them as one
// range, without edges that would have to be copied. Other allocators leave a gap all the same.
#pragma once
#include <arrow/memory_pool.h>
#include <arrow/status.h>

#include <cstdint>
#include <string>

#include "deanon/movable.h"

namespace zerrow {

// Its statistics are those of the other pool, and so count the rounding.
class MovablePool final : public arrow::MemoryPool {
 public:
  explicit MovablePool(arrow::MemoryPool* original) : original_(original) {}

  using MemoryPool::Allocate;
  using MemoryPool::Free;
  using MemoryPool::Reallocate;
  arrow::Status Allocate(int64_t size, int64_t alignment, uint8_t** out) override;
  arrow::Status Reallocate(int64_t old_size, int64_t new_size, int64_t alignment, uint8_t** ptr) override;
  void Free(uint8_t* buffer, int64_t size, int64_t alignment) override;
  void ReleaseUnused() override { original_->ReleaseUnused(); }
  int64_t bytes_allocated() const override { return original_->bytes_allocated(); }
  int64_t total_bytes_allocated() const override { return original_->total_bytes_allocated(); }
  int64_t num_allocations() const override { return original_->num_allocations(); }
  std::string backend_name() const override { return original_->backend_name(); }

 private:
  // Of what is known and was not moved.
  arrow::Status Resize(const MovableInfo& old, int64_t new_size, int64_t alignment, uint8_t** ptr);

  arrow::MemoryPool* original_;
};

}  // namespace zerrow
