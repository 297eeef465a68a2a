// Small allocations: slots of equal size in slabs of 128 KiB, so that one of each class fills no
// more than two huge pages.
//
// Sizes are multiples of 64 up to 512, then four classes for each doubling up to 32 KiB. Each
// class has its own lock, taken before the arena's lock (never the other way round). A
// slab that becomes empty goes back to the arena; one for each class waits for reuse until
// the next idle tick. Slab headers are never freed, so that a lookup may read one that is
// being returned; it then finds its slots gone.
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

// Where slabs come from and what they ask of the arena.
class SlabSource {
 public:
  virtual bool TakeSlab(uint64_t* offset) = 0;
  virtual void ReturnSlab(uint64_t offset) = 0;
  // True if the slot must wait for a forked child; the source then calls Recycle later.
  virtual bool HoldSlot(uint64_t offset, uint32_t born, uint64_t size) = 0;

 protected:
  ~SlabSource() = default;
};

class Slabs {
 public:
  explicit Slabs(SlabSource* source) : source_(source) {}
  bool Init(uint64_t capacity);
  // Size of the slots that serve `size` bytes.
  static uint64_t SlotSize(uint64_t size);

  bool Allocate(uint64_t size, Origin origin, uint32_t born, uint64_t* offset);
  // These return false if `offset` lies in no slab; then it is an extent's.
  bool Free(uint64_t offset, uint64_t* size);
  bool Resize(uint64_t offset, uint64_t size, uint64_t* old_size, bool* done);
  bool Find(uint64_t offset, Allocation* out, bool* live);
  bool Pin(uint64_t offset, bool* pinned, uint64_t* newly_pinned);
  bool Unpin(uint64_t offset, uint64_t* unpinned);
  // A slot that was held for a child is free now.
  bool Recycle(uint64_t offset);
  // Returns empty slabs that nobody has used since the last call; all of them if `now`.
  void ReturnIdle(bool now);
  bool idle() const { return spare_count_.load(std::memory_order_relaxed) > 0; }

  void LockAll();
  void UnlockAll();

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
    std::unique_ptr<Slot[]> slots;
  };
  struct Class {
    std::mutex mutex;
    std::vector<Slab*> partial;  // with free slots, except the spare one
    Slab* spare = nullptr;       // empty
    bool spare_aged = false;
    std::vector<Slab*> headers;  // unused
  };
  // A slot that has been looked up, with its class locked.
  struct Place {
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
  bool Lookup(uint64_t offset, Place* place);
  Slab* NewSlab(Class* size_class, int index);
  void DropSlab(Class* size_class, Slab* slab);
  void AddPartial(Class* size_class, Slab* slab);
  void RemovePartial(Class* size_class, Slab* slab);
  void Retire(Place* place);
  void Release(Place* place);

  SlabSource* source_;
  std::array<Class, kClasses> classes_;
  std::atomic<Slab*>* table_ = nullptr;  // by offset / kSlabBytes; sparse, and never freed
  uint64_t table_size_ = 0;
  std::atomic<int> spare_count_{0};
};

}  // namespace zerrow
