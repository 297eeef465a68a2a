// One process's arena: a sparse memfd, mapped once, from which Arrow and NumPy allocate.
//
// Large allocations are page-aligned extents, small ones slots of slabs. Freed memory is
// recycled warm up to a bound; beyond it, and after a second unused, its pages go back to
// the kernel. An allocation that the node store refers to is *pinned*: its memory is not
// recycled before both its owner has freed it and its last pin is gone.
//
// All members are safe to call from any thread. The arena is never destroyed: buffers may
// be freed after the interpreter has gone.
#pragma once
#include <cstdint>
#include <string>

namespace zerrow {

enum class Origin : uint8_t { kArrow, kNumpy, kCopy };

// A live allocation. `offset` is its key: unique among live allocations of the arena.
struct Allocation {
  uint64_t offset;
  uint64_t size;  // bytes asked for
  Origin origin;
};

struct ArenaStats {
  uint64_t live;         // bytes allocated and not yet freed by their owner
  uint64_t pinned;       // bytes of allocations with at least one pin
  uint64_t warm;         // freed bytes that keep their pages
  uint64_t quarantined;  // freed bytes that a forked child may still read
  uint64_t punched;      // bytes given back to the kernel so far
};

class Arena {
 public:
  // The process's arena; made at first use, again in a forked child. nullptr if it cannot be made.
  static Arena* Get();
  // Options for arenas made from now on.
  static void Configure(uint64_t capacity, uint64_t warm_limit, uint64_t decay_ms);

  // nullptr when the arena is full. Memory is 64-byte aligned, zeroed if asked for.
  uint8_t* Allocate(uint64_t size, Origin origin, bool zeroed = false);
  void Free(uint8_t* address);
  // In place only; false when it cannot be, or the allocation is pinned.
  bool Resize(uint8_t* address, uint64_t size);

  bool Contains(const void* address) const;
  // The live allocation that covers [address, address + size). False if there is none.
  // Also finds allocations that were freed by their owner but are still pinned.
  bool Find(const void* address, uint64_t size, Allocation* out);

  // Pins the allocation at `offset` for a publication. For NumPy-born memory the owner's
  // mapping becomes private first, so that later writes are the owner's own; false if it
  // was written since an earlier publication: its bytes then have to be copied.
  bool Pin(uint64_t offset);
  void Unpin(uint64_t offset);

  // Gives warm memory beyond `keep` bytes back to the kernel.
  void Trim(uint64_t keep);
  ArenaStats Stats();

  const std::string& id() const { return id_; }  // 16 random bytes: the segment's id
  int fd() const { return fd_; }
  uint8_t* base() const { return base_; }
  uint64_t capacity() const { return capacity_; }

 private:
  Arena() = default;
  std::string id_;
  int fd_ = -1;
  uint8_t* base_ = nullptr;
  uint64_t capacity_ = 0;
};

}  // namespace zerrow
