// Small allocations: slots of equal size in slabs of 128 KiB.
//
// Sizes are multiples of 64 up to 512, then four classes per doubling up to 32 KiB, so one slab of
// each class fills no more than two huge pages. Each class has its own lock, taken before the
// arena's lock, never after it. An empty slab goes back to the arena; one per class waits for reuse
// until the next idle tick. Slab headers are never freed, so that a lookup may read the header of a
// slab that is being returned; it then finds no slots. The class has the arena's interface once
// more, for slots, and a method for each change of a slab's state.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "memory/extents.h"

namespace zerrow {

enum class Origin : uint8_t;
struct Allocation;

constexpr uint64_t kSlabBytes = 128u << 10;
constexpr uint64_t kSlotMax = 32u << 10;

// What slabs need of the arena.
class SlabSource {
 public:
  virtual bool TakeSlab(uint64_t* offset) = 0;
  virtual void ReturnSlab(uint64_t offset) = 0;
  // True if the slot is quarantined for a forked child. The source calls Recycle later.
  virtual bool QuarantineSlot(uint64_t offset, uint32_t born, uint64_t size) = 0;

 protected:
  ~SlabSource() = default;
};

class Slabs {
 public:
  explicit Slabs(SlabSource* source) : source_(source) {}
  bool Init(uint64_t capacity);

  bool Allocate(uint64_t size, Origin origin, uint32_t born, uint64_t* offset);
  // These return false if `offset` lies in no slab; then it is an extent's.
  bool Free(uint64_t offset, uint64_t* size);
  bool Resize(uint64_t offset, uint64_t size, uint64_t* old_size, bool* done);
  bool Find(uint64_t offset, Allocation* out, bool* live);
  bool Pin(uint64_t offset, bool* pinned, uint64_t* newly_pinned);
  bool Unpin(uint64_t offset, uint64_t* unpinned);
  // Frees a slot that was quarantined.
  bool Recycle(uint64_t offset);
  // Returns the empty slabs that were not used since the last call, or all empty ones if `now`.
  void ReturnIdle(bool now);
  bool idle() const { return spare_count_.load(std::memory_order_relaxed) > 0; }

  void LockAll();
  void UnlockAll();

  // Calls visit(offset) for each slab with slots in use, with all locked.
  template <typename Visit>
  void EachInUse(Visit visit) const {
    for (const Class& size_class : classes_) {
      for (const Slab* slab : size_class.live)
        if (slab->used > 0) visit(slab->offset);
    }
  }

 private:
  static constexpr int kClasses = 32;
  struct Slot {
    union {
      uint32_t born;  // epoch of the allocation
      uint32_t next;  // free list
    };
    uint16_t size;  // bytes asked for; 0: free
    uint16_t pins;
    uint8_t origin;
    bool freed;  // by its owner; kept for its pins or for a child
  };
  struct Slab {
    int size_class;
    uint64_t offset;
    uint32_t used, fresh, free_head;  // slots in use, never used, and the list of free ones
    size_t place;                     // in Class::partial
    size_t number;                    // in Class::live
    std::unique_ptr<Slot[]> slots;
  };
  struct Class {
    std::mutex mutex;
    std::vector<Slab*> live;     // all that have memory
    std::vector<Slab*> partial;  // with free slots, except the spare one
    Slab* spare = nullptr;       // empty
    bool spare_aged = false;
    std::vector<Slab*> headers;  // unused
  };
  // A slot that has been looked up, with its class locked.
  struct LockedSlot {
    std::unique_lock<std::mutex> lock;
    Class* size_class = nullptr;
    Slab* slab = nullptr;
    Slot* slot = nullptr;  // nullptr between slots or behind the last one
    uint64_t offset = 0;   // start of the slot
  };

  static int ClassOf(uint64_t size);
  static uint64_t ClassSize(int size_class);
  static uint32_t SlotCount(int size_class) {
    return static_cast<uint32_t>(kSlabBytes / ClassSize(size_class));
  }
  bool Lookup(uint64_t offset, LockedSlot* place);
  Slab* NewSlab(Class* size_class, int index);
  void DropSlab(Class* size_class, Slab* slab);
  void AddPartial(Class* size_class, Slab* slab);
  void RemovePartial(Class* size_class, Slab* slab);
  void Retire(LockedSlot* place);
  void Release(LockedSlot* place);

  SlabSource* source_;
  std::array<Class, kClasses> classes_;
  std::atomic<Slab*>* table_ = nullptr;  // by offset / kSlabBytes; sparse, and never freed
  uint64_t table_size_ = 0;
  std::atomic<int> spare_count_{0};
};

}  // namespace zerrow
