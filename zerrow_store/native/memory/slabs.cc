// See slabs.h.
#include "memory/slabs.h"

#include <cstdio>
#include <cstdlib>

#include "memory/arena.h"

namespace zerrow {

constexpr uint32_t kNone = UINT32_MAX;

bool Slabs::Init(uint64_t capacity) {
  table_size_ = capacity / kSlabBytes;
  // calloc does not touch large memory before it is used; zeros are null pointers.
  table_ = static_cast<std::atomic<Slab*>*>(calloc(table_size_, sizeof(std::atomic<Slab*>)));
  return table_ != nullptr;
}

int Slabs::ClassOf(uint64_t size) {
  if (size <= 512) return static_cast<int>((size - 1) / 64);
  int log = 63 - __builtin_clzll(size - 1);
  return 8 + (log - 9) * 4 + static_cast<int>(((size - 1) >> (log - 2)) & 3);
}

uint64_t Slabs::ClassSize(int size_class) {
  if (size_class < 8) return static_cast<uint64_t>(size_class + 1) * 64;
  uint64_t base = 512ull << ((size_class - 8) / 4);
  return base + base / 4 * static_cast<uint64_t>((size_class - 8) % 4 + 1);
}

void Slabs::AddPartial(Class* size_class, Slab* slab) {
  slab->place = size_class->partial.size();
  size_class->partial.push_back(slab);
}

void Slabs::RemovePartial(Class* size_class, Slab* slab) {
  Slab* last = size_class->partial.back();
  size_class->partial[slab->place] = last;
  last->place = slab->place;
  size_class->partial.pop_back();
}

Slabs::Slab* Slabs::NewSlab(Class* size_class, int index) {
  uint64_t offset;
  if (!source_->TakeSlab(&offset)) return nullptr;
  Slab* slab;
  if (size_class->headers.empty()) {
    slab = new Slab();
    slab->size_class = index;
  } else {
    slab = size_class->headers.back();
    size_class->headers.pop_back();
  }
  slab->offset = offset;
  slab->used = slab->fresh = 0;
  slab->free_head = kNone;
  slab->slots = std::unique_ptr<Slot[]>(new Slot[SlotCount(index)]);
  AddPartial(size_class, slab);
  slab->number = size_class->live.size();
  size_class->live.push_back(slab);
  table_[offset / kSlabBytes].store(slab, std::memory_order_release);
  return slab;
}

void Slabs::DropSlab(Class* size_class, Slab* slab) {
  table_[slab->offset / kSlabBytes].store(nullptr, std::memory_order_release);
  slab->slots.reset();
  size_class->live[slab->number] = size_class->live.back();
  size_class->live[slab->number]->number = slab->number;
  size_class->live.pop_back();
  size_class->headers.push_back(slab);
  source_->ReturnSlab(slab->offset);
}

bool Slabs::Allocate(uint64_t size, Origin origin, uint32_t born, uint64_t* offset) {
  int index = ClassOf(size);
  Class& size_class = classes_[static_cast<size_t>(index)];
  std::lock_guard<std::mutex> lock(size_class.mutex);
  Slab* slab = nullptr;
  if (!size_class.partial.empty()) {
    slab = size_class.partial.back();
  } else if (size_class.spare != nullptr) {
    slab = size_class.spare;
    size_class.spare = nullptr;
    spare_count_.fetch_sub(1);
    AddPartial(&size_class, slab);
  } else if ((slab = NewSlab(&size_class, index)) == nullptr) {
    return false;
  }
  uint32_t slot;
  if (slab->free_head != kNone) {
    slot = slab->free_head;
    slab->free_head = slab->slots[slot].next;
  } else {
    slot = slab->fresh++;
  }
  Slot& taken = slab->slots[slot];
  taken.born = born;
  taken.size = static_cast<uint16_t>(size);
  taken.pins = 0;
  taken.origin = static_cast<uint8_t>(origin);
  taken.freed = false;
  if (++slab->used == SlotCount(index)) RemovePartial(&size_class, slab);
  *offset = slab->offset + slot * ClassSize(index);
  return true;
}

bool Slabs::Lookup(uint64_t offset, LockedSlot* place) {
  uint64_t entry = offset / kSlabBytes;
  if (entry >= table_size_) return false;
  Slab* slab = table_[entry].load(std::memory_order_acquire);
  if (slab == nullptr) return false;
  place->size_class = &classes_[static_cast<size_t>(slab->size_class)];
  place->lock = std::unique_lock<std::mutex>(place->size_class->mutex);
  // The slab may have been returned since, and serve another class.
  if (table_[entry].load(std::memory_order_acquire) != slab) return false;
  uint64_t size = ClassSize(slab->size_class);
  uint64_t slot = (offset - slab->offset) / size;
  place->slab = slab;
  place->offset = slab->offset + slot * size;
  if (slot < slab->fresh && slab->slots[slot].size != 0) place->slot = &slab->slots[slot];
  return true;
}

bool Slabs::Free(uint64_t offset, uint64_t* size) {
  LockedSlot place;
  if (!Lookup(offset, &place)) return false;
  if (place.slot == nullptr || place.offset != offset || place.slot->freed) {
    fprintf(stderr, "zerrow: free of a pointer that is not allocated\n");
    abort();
  }
  *size = place.slot->size;
  place.slot->freed = true;
  if (place.slot->pins == 0) Retire(&place);
  return true;
}

void Slabs::Retire(LockedSlot* place) {
  if (!source_->QuarantineSlot(place->offset, place->slot->born, ClassSize(place->slab->size_class)))
    Release(place);
}

void Slabs::Release(LockedSlot* place) {
  Class* size_class = place->size_class;
  Slab* slab = place->slab;
  place->slot->size = 0;
  place->slot->next = slab->free_head;
  slab->free_head = static_cast<uint32_t>(place->slot - slab->slots.get());
  if (slab->used-- == SlotCount(slab->size_class)) AddPartial(size_class, slab);
  if (slab->used > 0) return;
  RemovePartial(size_class, slab);
  if (size_class->spare != nullptr) return DropSlab(size_class, slab);
  size_class->spare = slab;
  size_class->spare_aged = false;
  spare_count_.fetch_add(1);
}

bool Slabs::Resize(uint64_t offset, uint64_t size, uint64_t* old_size, bool* done) {
  LockedSlot place;
  if (!Lookup(offset, &place)) return false;
  *done = place.slot != nullptr && place.slot->pins == 0 && size <= kSlotMax &&
          ClassOf(size) == place.slab->size_class;
  if (!*done) return true;
  *old_size = place.slot->size;
  place.slot->size = static_cast<uint16_t>(size);
  return true;
}

bool Slabs::Find(uint64_t offset, Allocation* out, bool* live) {
  LockedSlot place;
  if (!Lookup(offset, &place)) return false;
  *live = place.slot != nullptr && (!place.slot->freed || place.slot->pins > 0);
  if (*live) *out = {place.offset, place.slot->size, static_cast<Origin>(place.slot->origin)};
  return true;
}

bool Slabs::Pin(uint64_t offset, bool* pinned, uint64_t* newly_pinned) {
  LockedSlot place;
  if (!Lookup(offset, &place)) return false;
  *newly_pinned = 0;
  *pinned = place.slot != nullptr && place.offset == offset && place.slot->pins < UINT16_MAX &&
            (!place.slot->freed || place.slot->pins > 0);
  if (*pinned && place.slot->pins++ == 0) *newly_pinned = place.slot->size;
  return true;
}

bool Slabs::Unpin(uint64_t offset, uint64_t* unpinned) {
  LockedSlot place;
  if (!Lookup(offset, &place)) return false;
  *unpinned = 0;
  if (place.slot == nullptr || place.offset != offset || place.slot->pins == 0) return true;
  if (--place.slot->pins > 0) return true;
  *unpinned = place.slot->size;
  if (place.slot->freed) Retire(&place);
  return true;
}

bool Slabs::Recycle(uint64_t offset) {
  LockedSlot place;
  if (!Lookup(offset, &place)) return false;
  Release(&place);
  return true;
}

void Slabs::ReturnIdle(bool now) {
  for (Class& size_class : classes_) {
    std::lock_guard<std::mutex> lock(size_class.mutex);
    if (size_class.spare == nullptr) continue;
    if (!now && !size_class.spare_aged) {
      size_class.spare_aged = true;
      continue;
    }
    Slab* slab = size_class.spare;
    size_class.spare = nullptr;
    spare_count_.fetch_sub(1);
    DropSlab(&size_class, slab);
  }
}

void Slabs::LockAll() {
  for (Class& size_class : classes_) size_class.mutex.lock();
}

void Slabs::UnlockAll() {
  for (Class& size_class : classes_) size_class.mutex.unlock();
}

}  // namespace zerrow
