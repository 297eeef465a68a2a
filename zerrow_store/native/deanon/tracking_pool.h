// A memory pool in front of another one, whose allocations it has Deanon track.
//
// It asks for whole pages, and for as many as fill the block that mimalloc, Arrow's default, would
// take anyway. Then buffers that follow each other leave no gap, and KernelZero moves them as one
// range, with no edges to copy. Other allocators leave a gap all the same.
#pragma once
#include <arrow/memory_pool.h>
#include <arrow/status.h>

#include <cstdint>
#include <string>

#include "deanon/deanon.h"

namespace zerrow {

// Its statistics are the other pool's, so they include the rounding.
class TrackingPool final : public arrow::MemoryPool {
 public:
  explicit TrackingPool(arrow::MemoryPool* original) : original_(original) {}

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
  // Resizes a tracked allocation that was not moved.
  arrow::Status Resize(const TrackedInfo& old, int64_t new_size, int64_t alignment, uint8_t** ptr);

  arrow::MemoryPool* original_;
};

}  // namespace zerrow
