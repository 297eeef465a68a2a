// Arrow's memory pool over the arena, in front of another pool.
//
// It allocates from the arena while it is switched on, and from the original pool if the arena
// cannot serve or it is switched off. Free and Reallocate go by address, so memory of either kind
// stays valid whatever is switched. Statistics count everything that passes through.
#pragma once
#include <arrow/memory_pool.h>
#include <arrow/status.h>

#include <atomic>
#include <cstdint>
#include <string>

namespace zerrow {

class ArenaPool final : public arrow::MemoryPool {
 public:
  explicit ArenaPool(arrow::MemoryPool* original);

  using MemoryPool::Allocate;
  using MemoryPool::Free;
  using MemoryPool::Reallocate;
  arrow::Status Allocate(int64_t size, int64_t alignment, uint8_t** out) override;
  arrow::Status Reallocate(int64_t old_size, int64_t new_size, int64_t alignment, uint8_t** ptr) override;
  void Free(uint8_t* buffer, int64_t size, int64_t alignment) override;
  void ReleaseUnused() override;
  int64_t bytes_allocated() const override { return stats_.bytes_allocated(); }
  int64_t max_memory() const override { return stats_.max_memory(); }
  int64_t total_bytes_allocated() const override { return stats_.total_bytes_allocated(); }
  int64_t num_allocations() const override { return stats_.num_allocations(); }
  std::string backend_name() const override { return on_ ? "zerrow" : original_->backend_name(); }

  void Switch(bool on) { on_ = on; }

 private:
  // nullptr if the original pool must serve.
  uint8_t* TryArena(int64_t size, int64_t alignment) const;

  arrow::MemoryPool* original_;
  std::atomic<bool> on_{false};
  arrow::internal::MemoryPoolStats stats_;
};

}  // namespace zerrow
