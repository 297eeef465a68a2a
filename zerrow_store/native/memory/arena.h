// One process's arena: a sparse memory file, mapped once, from which Arrow and NumPy allocate.
//
// Large allocations are page-aligned extents, small ones are slots of slabs. Freed memory stays
// warm for reuse up to a bound. Beyond that, and after some seconds unused (ZERROW_DECAY_MS), its
// pages go back to the kernel: whole huge pages, or parts of them if memory is short or the process
// idle. An allocation that the node store refers to is *pinned*: its memory is recycled only after
// its owner has freed it and its last pin is gone.
//
// All members are thread-safe. The arena is never destroyed: buffers may be freed after the
// interpreter has gone.
//
// Locks: a slab class's, then `mutex_` (free and live extents, fork guard). System calls that may
// take long (punching, reading the page map) happen outside of both.
//
// fork: a child inherits the mapping, but privately: it neither writes its parent's file nor
// allocates there. The parent *quarantines* memory that a child could read at the fork: it recycles
// it only after the child has gone.
//
// The class has many methods because they change the same state under one lock. Slabs, free
// extents, the mapping and the fork guard are classes of their own; arena.cc, give_back.cc,
// decay.cc and fork.cc implement the rest.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "memory/extents.h"
#include "memory/fork_guard.h"
#include "memory/mapping.h"
#include "memory/memory_pressure.h"
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
  uint64_t live;         // bytes allocated and not freed by their owner
  uint64_t pinned;       // bytes of allocations with at least one pin
  uint64_t warm;         // freed bytes that still have their pages
  uint64_t quarantined;  // freed bytes that a forked child may still read
  uint64_t punched;      // bytes given back to the kernel so far
  uint64_t peak;         // peak of the bytes in use and not pinned
  uint64_t page;         // size of the pages that the kernel provides, if it has them free
};

class Arena final : private SlabSource {
 public:
  // The process's arena, created at first use, and anew in a forked child. nullptr if that fails.
  static Arena* Get();
  // Why Get returned nullptr, in words.
  static std::string Failure();
  // The arena if it exists; never creates one.
  static Arena* Current();
  // The arena that `address` lies in: this process's or one inherited by fork. nullptr if it lies
  // in none.
  static Arena* Owner(const void* address);
  // Sets the options of arenas created later.
  static void Configure(uint64_t capacity, uint64_t warm_limit, uint64_t decay_ms, HugePages huge_pages,
                        bool sealable, std::vector<MemoryGroup> groups);

  // Returns 64-byte aligned memory, nullptr if the arena is full.
  uint8_t* Allocate(uint64_t size, Origin origin, bool zeroed = false);
  void Free(uint8_t* address);
  // Resizes in place. False if that is impossible, or the allocation is pinned.
  bool Resize(uint8_t* address, uint64_t size);

  bool Contains(const void* address) const;
  // Finds the allocation that covers [address, address + size): a live one, or one that its owner
  // has freed but that is still pinned. False if there is none.
  bool Find(const void* address, uint64_t size, Allocation* out);

  // Pins the allocation at `offset` for a publication. For NumPy's memory the owner's mapping first
  // becomes private, so that its later writes stay its own. False if the owner has written to it
  // since an earlier publication: its bytes then have to be copied.
  bool Pin(uint64_t offset);
  void Unpin(uint64_t offset);

  // Gives warm memory beyond `keep` bytes back to the kernel, if need be parts of huge pages.
  void Trim(uint64_t keep);
  // Bounds the memory that is neither pinned nor given back, in use or warm, at `limit` bytes from
  // now on, as far as giving up warm memory can.
  void BoundUnpublished(uint64_t limit);
  // Makes large allocations of Arrow's wait for `seconds` from now on, or until the next call: the
  // store is making room. Such an allocation never fails for that, and never waits with the GIL.
  void HoldBack(double seconds);
  ArenaStats Stats();
  // Returns the bytes in use and not pinned, and restarts their peak.
  uint64_t ResetPeak();

  const std::string& id() const { return id_; }  // 16 random bytes: the segment's id
  int fd() const { return mapping_.fd(); }
  uint8_t* base() const { return mapping_.base(); }
  uint64_t capacity() const { return mapping_.capacity(); }

 private:
  // An extent, from its allocation until its memory may be recycled.
  struct Extent {
    uint64_t length;  // of the memory, >= size
    uint64_t size;    // bytes asked for
    uint32_t born;    // epoch of the allocation
    uint32_t pins;
    Origin origin;
    bool freed;       // by its owner
    bool is_private;  // this process's writes do not reach the file
    bool by_fork;     // it became private, with others, in one mapping
  };
  using Extents = std::map<uint64_t, Extent>;
  // A freed extent or slot that a forked child may still read.
  struct Quarantined {
    uint64_t offset;
    uint32_t born;
    uint64_t size;
  };

  // Adjacent extents.
  struct Run {
    Range range;
    Extents::iterator first;
  };

  Arena() : slabs_(this) {}
  // Returns why that failed; empty: it did not.
  std::string Init(uint64_t capacity, HugePages huge_pages, bool sealable);
  Range RangeOf(Extents::const_iterator it) const { return {it->first, it->second.length}; }
  Extents::iterator Covering(uint64_t offset);

  // SlabSource
  bool TakeSlab(uint64_t* offset) override;
  void ReturnSlab(uint64_t offset) override;
  bool QuarantineSlot(uint64_t offset, uint32_t born, uint64_t size) override;

  // The caller has `mutex_`, also for the following ones up to ExcessWarm.
  void AddTaken(uint64_t length);
  uint64_t Unpublished() const;
  void NotePeak();
  // The order in which warm memory is given back, in whole pages. kAny: finally also parts of huge
  // pages.
  enum class Which { kLargest, kOldest, kAny };
  struct Excess {
    uint64_t bytes = 0;
    Which which = Which::kLargest;
  };
  // The warm memory beyond the bounds. Beyond the store's bound, memory is short.
  Excess ExcessWarm() const;
  bool AllocateExtent(uint64_t size, Origin origin, bool prefer_warm, uint64_t* offset, bool* warm);
  void AwaitRoom() const;
  void PutWarm(Range range);
  void Quarantine(uint64_t offset, uint32_t born, uint64_t size);
  void FreeInherited(uint64_t offset);
  bool ResizeExtent(uint64_t offset, uint64_t size);
  bool GrowExtent(Extents::iterator it, uint64_t length);
  bool PinExtent(uint64_t offset);
  // Quarantines or recycles an extent that neither its owner nor a pin needs.
  void Retire(Extents::iterator it);
  void Recycle(Extents::iterator it);
  void ReleaseQuarantined();

  // give_back.cc
  // Punches warm ranges until `most` bytes have been given back.
  void GiveBack(uint64_t most, Which which);
  bool TakeWarm(uint64_t most, Which which, Range* out);
  // Punches the cold parts of split pages again: the kernel may have filled them since, or never
  // freed them.
  void GiveBackAgain();

  // decay.cc: the thread that gives unused memory back
  void WakeDecay();
  bool StartDecay();
  uint64_t TickMs() const;
  void DecayLoop();
  void DecayTick();
  bool DecayIdle();
  // The caller has `mutex_`.
  uint64_t IdleExcess() const;
  bool AnySplit();

  // fork.cc
  friend struct ForkHandlers;
  void PrepareFork();
  // Copies a range for the child.
  void Save(Range range);
  void AfterForkInParent();
  void AfterForkInChild();

  std::string id_;
  Mapping mapping_;
  Slabs slabs_;
  Arena* next_ = nullptr;               // all arenas of this process, newest first
  std::atomic<bool> inherited_{false};  // a parent's arena, in a forked child
  uint64_t warm_limit_ = 0;
  uint64_t decay_ms_ = 0;
  std::atomic<std::chrono::steady_clock::time_point> held_back_until_{};
  std::atomic<uint64_t> live_{0}, pinned_{0};
  std::atomic<bool> watch_{false};  // memory is warm or quarantined; slabs_.idle() counts, too

  std::mutex mutex_;  // guards what follows
  FreeExtents free_;
  Extents extents_;
  ForkGuard fork_guard_;
  std::vector<Quarantined> quarantine_;
  std::vector<std::pair<Range, std::unique_ptr<uint8_t[]>>> saved_;  // while a fork is under way
  uint64_t quarantined_ = 0;
  uint64_t punched_ = 0;
  // Bytes of extents and slabs, free parts of them included. The part that is not pinned, and the
  // warm memory, belong to no object.
  uint64_t taken_ = 0;
  uint64_t unpublished_peak_ = 0;
  uint64_t unpublished_limit_ = UINT64_MAX;
  bool used_ = false;  // memory was allocated or freed since the last tick of the decay thread
  uint32_t private_count_ = 0;

  static constexpr int kSpans = 4;  // decay considers the last kSpans spans of some ticks each
  std::mutex decay_mutex_;
  std::condition_variable decay_wake_;
  bool decay_started_ = false;
  std::atomic<bool> decay_asleep_{true};
  MemoryPressure memory_pressure_;  // for the decay thread only
  uint64_t low_water_[kSpans] = {};
  uint64_t tick_ = 0;
  int idle_ticks_ = 0;
};

}  // namespace zerrow
