// One process's arena: a sparse memory file, mapped once, from which Arrow and NumPy allocate.
//
// Large allocations are page-aligned extents, small ones slots of slabs. Freed memory is
// recycled warm up to a bound; beyond it, and after a second unused, its pages go back to
// the kernel: huge ones as a whole, or in parts where memory is short or the process idle. An
// allocation that the node store refers to is *pinned*: its memory is not recycled before both
// its owner has freed it and its last pin is gone.
//
// All members are safe to call from any thread. The arena is never destroyed: buffers may
// be freed after the interpreter has gone.
//
// Locks: a slab class's, then `mutex_` (free and live extents, children). System calls that
// may take long (punching, reading the page map) happen outside both.
//
// fork: a child inherits the mapping, but privately: it neither writes its parent's file nor
// allocates there. What it could read at the fork is not recycled by the parent before the
// child is gone. What Arrow may still write to (buffers being built) is as it is in the file.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "memory/children.h"
#include "memory/extents.h"
#include "memory/mapping.h"
#include "memory/memory_room.h"
#include "memory/slabs.h"

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
  uint64_t peak;         // the most that was in use and not pinned
  uint64_t page;         // in pages of this size the kernel gives memory, if it has them free
};

class Arena final : private SlabSource {
 public:
  // The process's arena; made at first use, again in a forked child. nullptr if it cannot be made.
  static Arena* Get();
  // The arena if it has been made; never makes one.
  static Arena* Current();
  // The arena that `address` lies in: this process's or one inherited by fork. nullptr if none.
  static Arena* Owner(const void* address);
  // Options for arenas made from now on.
  static void Configure(uint64_t capacity, uint64_t warm_limit, uint64_t decay_ms, HugePages huge_pages,
                        bool sealable, std::vector<MemoryGroup> groups);

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

  // Gives warm memory beyond `keep` bytes back to the kernel, if need be parts of huge pages.
  void Trim(uint64_t keep);
  // Keeps what is neither pinned nor given back, in use or warm, at `limit` bytes from now on, as
  // far as giving up warm memory does it.
  void BoundUnpublished(uint64_t limit);
  // Lets large allocations of Arrow's wait for `seconds` from now on, or till they are told
  // otherwise: the store is making room. They never fail for it, and never wait with the GIL.
  void HoldBack(double seconds);
  ArenaStats Stats();
  // What is in use and not pinned; its peak counts from now on.
  uint64_t ResetPeak();

  // True in a forked child for the arena of its parent: nothing is allocated or recycled there.
  bool inherited() const { return inherited_; }
  const std::string& id() const { return id_; }  // 16 random bytes: the segment's id
  int fd() const { return mapping_.fd(); }
  uint8_t* base() const { return mapping_.base(); }
  uint64_t capacity() const { return mapping_.capacity(); }

 private:
  // An allocated extent; it stays until its memory may be recycled.
  struct Extent {
    uint64_t length;  // of the memory, >= size
    uint64_t size;    // bytes asked for
    uint32_t born;    // epoch of the allocation
    uint32_t pins;
    Origin origin;
    bool freed;       // by its owner
    bool is_private;  // this process's writes do not reach the file
  };
  using Extents = std::map<uint64_t, Extent>;
  struct Held {
    uint64_t offset;
    uint32_t born;
    uint64_t size;
  };

  Arena() : slabs_(this) {}
  bool Init(uint64_t capacity, HugePages huge_pages, bool sealable);
  Range RangeOf(Extents::const_iterator it) const { return {it->first, it->second.length}; }
  Extents::iterator Covering(uint64_t offset);

  // SlabSource
  bool TakeSlab(uint64_t* offset) override;
  void ReturnSlab(uint64_t offset) override;
  bool HoldSlot(uint64_t offset, uint32_t born, uint64_t size) override;

  // With the lock, as all that follow up to ExcessWarm.
  void AddTaken(uint64_t length);
  uint64_t Unpublished() const;
  void NotePeak();
  // In which order warm memory is given back, in whole pages; kAny: at last also what splits huge ones.
  enum class Which { kLargest, kOldest, kAny };
  struct Excess {
    uint64_t bytes = 0;
    Which which = Which::kLargest;
  };
  // What is warm beyond the bounds; beyond the store's, memory is short.
  Excess ExcessWarm() const;
  bool AllocateExtent(uint64_t size, Origin origin, bool prefer_warm, uint64_t* offset, bool* warm);
  void AwaitRoom() const;
  void PutWarm(Range range);
  void Hold(uint64_t offset, uint32_t born, uint64_t size);
  void FreeInherited(uint64_t offset);
  bool ResizeExtent(uint64_t offset, uint64_t size);
  bool GrowExtent(Extents::iterator it, uint64_t length);
  bool PinExtent(uint64_t offset);
  // An extent that neither its owner nor a pin needs: held for a child, or free.
  void Retire(Extents::iterator it);
  void Recycle(Extents::iterator it);
  void ReleaseHeld();
  // Punches warm ranges until `most` bytes are given back.
  void GiveBack(uint64_t most, Which which);
  bool TakeWarm(uint64_t most, Which which, Range* out);
  // Gives memory back once more that the kernel has given to split pages since, or never took.
  void GiveBackAgain();

  // decay.cc: the thread that gives back what stays unused
  void WakeDecay();
  bool StartDecay();
  uint64_t TickMs() const;
  void DecayLoop();
  void DecayTick();
  bool DecayIdle();
  // With the lock.
  uint64_t IdleExcess() const;
  bool AnySplit();

  // fork.cc
  friend struct ForkHandlers;
  void PrepareFork();
  void AfterForkInParent();
  void AfterForkInChild();

  std::string id_;
  Mapping mapping_;
  Slabs slabs_;
  Arena* next_ = nullptr;  // all arenas of this process, newest first
  std::atomic<bool> inherited_{false};
  uint64_t warm_limit_ = 0;
  uint64_t decay_ms_ = 0;
  std::atomic<std::chrono::steady_clock::time_point> held_back_until_{};
  std::atomic<uint64_t> live_{0}, pinned_{0};
  std::atomic<bool> watch_{false};  // something is warm or held; slabs_.idle() comes to it

  std::mutex mutex_;  // guards what follows
  FreeExtents free_;
  Extents extents_;
  Children children_;
  std::vector<Held> held_;
  uint64_t quarantined_ = 0;
  uint64_t punched_ = 0;
  // Bytes of extents and slabs, what is free in these included. What of it is not pinned, and what is
  // warm, is in memory without being an object's.
  uint64_t taken_ = 0;
  uint64_t unpublished_peak_ = 0;
  uint64_t unpublished_limit_ = UINT64_MAX;
  bool used_ = false;  // memory was taken or freed since the last tick of decay
  uint32_t private_count_ = 0;

  static constexpr int kSpans = 4;  // decay looks at the last kSpans spans, of some ticks each
  std::mutex decay_mutex_;
  std::condition_variable decay_wake_;
  bool decay_started_ = false;
  std::atomic<bool> decay_asleep_{true};
  MemoryRoom room_;  // the decay thread's
  uint64_t low_water_[kSpans] = {};
  uint64_t tick_ = 0;
  int idle_ticks_ = 0;
};

}  // namespace zerrow
