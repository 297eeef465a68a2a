// See arena.h. This file has allocation, recycling and pins.
#include "memory/arena.h"

#include <Python.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <thread>

namespace zerrow {
namespace {

// Each private range may take two of the mappings that a process may have (vm.max_map_count, 65530
// by default). Beyond this many, publication copies.
constexpr uint32_t kPrivateMax = 1000;
// Zeroed memory of this size and more is taken cold: pages that are never used then cost nothing.
constexpr uint64_t kZeroedCold = 4u << 20;
// Rounding up to whole huge pages may waste an eighth.
constexpr uint64_t kWaste = 8;
// Smaller allocations do not wait while the store holds its producers back.
constexpr uint64_t kHeldBackMin = 1u << 20;

// Whole huge pages, if the allocation nearly fills them: then all its memory can go back to the
// kernel when it is freed. Large lengths are rounded more coarsely, so that allocations of similar
// sizes reuse each other's memory.
uint64_t ExtentLength(uint64_t size, uint64_t page) {
  uint64_t whole = RoundUp(size, page);
  if (page == kHugePage && whole - size <= size / kWaste) return whole;
  return RoundUp(size, size >= (1u << 20) ? std::max<uint64_t>(64u << 10, kPage) : kPage);
}

}  // namespace

std::string Arena::Init(uint64_t wanted, HugePages huge_pages, bool sealable) {
  id_.resize(16);
  if (getrandom(id_.data(), id_.size(), 0) != static_cast<ssize_t>(id_.size())) return "no random bytes";
  if (std::string why = mapping_.Create(wanted, huge_pages, sealable); !why.empty()) return why;
  if (!slabs_.Init(capacity())) return "no address space for its slabs (ulimit -v)";
  free_.Start({0, capacity()}, mapping_.page());
  return "";
}

uint8_t* Arena::Allocate(uint64_t size, Origin origin, bool zeroed) {
  if (inherited_ || size > capacity()) return nullptr;
  size = std::max<uint64_t>(size, 1);
  if (size >= kHeldBackMin && origin == Origin::kArrow) AwaitRoom();
  uint64_t offset;
  bool dirty = true;
  // NumPy's memory may become private later, in whole pages, so it shares no page.
  if (size <= kSlotMax && origin != Origin::kNumpy) {
    if (!slabs_.Allocate(size, origin, fork_guard_.epoch(), &offset)) return nullptr;
  } else {
    bool prefer_warm = !zeroed || size < kZeroedCold;
    if (!AllocateExtent(size, origin, prefer_warm, &offset, &dirty)) {
      // Full or fragmented: quarantined memory may be free by now, and cold ranges merge.
      Trim(0);
      if (!AllocateExtent(size, origin, prefer_warm, &offset, &dirty)) return nullptr;
    }
  }
  live_ += size;
  if (zeroed && dirty) memset(base() + offset, 0, size);
  return base() + offset;
}

void Arena::HoldBack(double seconds) {
  auto wait = std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::duration<double>(seconds));
  held_back_until_ = std::chrono::steady_clock::now() + wait;
}

void Arena::AwaitRoom() const {
  // A thread with the GIL does not wait: the thread that ends the wait may need the GIL, and an
  // object that is being converted under the GIL must not change meanwhile. Polls without a lock of
  // ours, as the caller may have any of Arrow's.
  if (Py_IsInitialized() && PyGILState_Check()) return;
  while (std::chrono::steady_clock::now() < held_back_until_.load(std::memory_order_relaxed))
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

bool Arena::AllocateExtent(uint64_t size, Origin origin, bool prefer_warm, uint64_t* offset, bool* warm) {
  Excess excess;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    Range range;
    uint64_t length = ExtentLength(size, mapping_.page());
    uint64_t alignment = length % kHugePage == 0 ? mapping_.page() : kPage;
    if (!free_.Take(length, alignment, prefer_warm, &range, warm)) return false;
    extents_[range.offset] = {range.length, size, fork_guard_.epoch(), 0, origin, false, false, false};
    *offset = range.offset;
    AddTaken(range.length);
    excess = ExcessWarm();
  }
  GiveBack(excess.bytes, excess.which);
  return true;
}

void Arena::AddTaken(uint64_t length) {
  taken_ += length;
  NotePeak();
  used_ = true;
}

uint64_t Arena::Unpublished() const { return taken_ - std::min<uint64_t>(taken_, pinned_); }

void Arena::NotePeak() { unpublished_peak_ = std::max(unpublished_peak_, Unpublished()); }

uint64_t Arena::ResetPeak() {
  std::lock_guard<std::mutex> lock(mutex_);
  return unpublished_peak_ = Unpublished();
}

Arena::Excess Arena::ExcessWarm() const {
  uint64_t warm = free_.warm();
  uint64_t left = unpublished_limit_ - std::min(unpublished_limit_, Unpublished());
  uint64_t bound = decay_ms_ == 0 ? 0 : std::min(left, warm_limit_);
  return {warm - std::min(warm, bound), warm > left ? Which::kAny : Which::kLargest};
}

bool Arena::TakeSlab(uint64_t* offset) {
  std::lock_guard<std::mutex> lock(mutex_);
  Range range;
  bool warm;
  if (!free_.Take(kSlabBytes, kSlabBytes, true, &range, &warm)) return false;
  AddTaken(range.length);
  *offset = range.offset;
  return true;
}

void Arena::ReturnSlab(uint64_t offset) {
  std::lock_guard<std::mutex> lock(mutex_);
  PutWarm({offset, kSlabBytes});
}

bool Arena::QuarantineSlot(uint64_t offset, uint32_t born, uint64_t size) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!fork_guard_.MaySee(born)) return false;
  Quarantine(offset, born, size);
  return true;
}

void Arena::PutWarm(Range range) {
  free_.Put(range, true);
  taken_ -= range.length;
  watch_ = used_ = true;
}

void Arena::Quarantine(uint64_t offset, uint32_t born, uint64_t size) {
  quarantine_.push_back({offset, born, size});
  quarantined_ += size;
  watch_ = true;
}

Arena::Extents::iterator Arena::Covering(uint64_t offset) {
  auto it = extents_.upper_bound(offset);
  if (it == extents_.begin()) return extents_.end();
  --it;
  return offset < it->first + it->second.length ? it : extents_.end();
}

void Arena::Free(uint8_t* address) {
  uint64_t offset = static_cast<uint64_t>(address - base());
  if (inherited_) return FreeInherited(offset);
  uint64_t size = 0;
  Excess excess;
  if (!slabs_.Free(offset, &size)) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto it = extents_.find(offset);
    if (it == extents_.end() || it->second.freed) {
      fprintf(stderr, "zerrow: free of a pointer that is not allocated\n");
      abort();
    }
    size = it->second.size;
    it->second.freed = true;
    if (it->second.pins == 0) Retire(it);
    excess = ExcessWarm();
  }
  live_ -= size;
  GiveBack(excess.bytes, excess.which);
  WakeDecay();
}

void Arena::FreeInherited(uint64_t offset) {
  // The memory is a private copy of the parent's. Only whole pages can be released.
  std::lock_guard<std::mutex> lock(mutex_);
  auto it = extents_.find(offset);
  if (it == extents_.end()) return;
  mapping_.Forget(RangeOf(it));
  extents_.erase(it);
}

void Arena::Retire(Extents::iterator it) {
  if (!fork_guard_.MaySee(it->second.born)) return Recycle(it);
  Quarantine(it->first, it->second.born, it->second.length);
}

void Arena::Recycle(Extents::iterator it) {
  Range range = RangeOf(it);
  if (it->second.is_private) {
    if (!mapping_.Share(range)) {
      // Too many mappings at the moment; tried again with the quarantined memory.
      Quarantine(range.offset, it->second.born, range.length);
      return;
    }
    if (!it->second.by_fork) --private_count_;
  }
  extents_.erase(it);
  PutWarm(range);
}

void Arena::ReleaseQuarantined() {
  std::vector<Quarantined> candidates;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    fork_guard_.Reap();
    auto free = std::partition(quarantine_.begin(), quarantine_.end(),
                               [&](const Quarantined& each) { return fork_guard_.MaySee(each.born); });
    candidates.assign(free, quarantine_.end());
    quarantine_.erase(free, quarantine_.end());
    for (const Quarantined& each : candidates) quarantined_ -= each.size;
  }
  for (const Quarantined& each : candidates) {
    if (slabs_.Recycle(each.offset)) continue;
    std::lock_guard<std::mutex> lock(mutex_);
    Recycle(extents_.find(each.offset));
  }
}

bool Arena::Resize(uint8_t* address, uint64_t size) {
  if (inherited_ || size == 0 || size > capacity()) return false;
  uint64_t offset = static_cast<uint64_t>(address - base());
  uint64_t old_size;
  bool done;
  if (!slabs_.Resize(offset, size, &old_size, &done)) return ResizeExtent(offset, size);
  if (done) live_ += size - old_size;
  return done;
}

bool Arena::ResizeExtent(uint64_t offset, uint64_t size) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto it = extents_.find(offset);
  if (it == extents_.end() || it->second.freed || it->second.pins > 0) return false;
  Extent& extent = it->second;
  // A small rest belongs into a slab: its page would be mostly empty.
  if (size <= kPage && extent.origin != Origin::kNumpy) return false;
  uint64_t length = ExtentLength(size, mapping_.page());
  if (length > extent.length && !GrowExtent(it, length)) return false;
  // The tail stays if a child may read it, or a mapping would have to be split.
  if (length < extent.length && !extent.is_private && !fork_guard_.MaySee(extent.born)) {
    PutWarm({offset + length, extent.length - length});
    extent.length = length;
  }
  live_ += size - extent.size;
  extent.size = size;
  return true;
}

bool Arena::GrowExtent(Extents::iterator it, uint64_t length) {
  Extent& extent = it->second;
  if (extent.is_private) return false;  // the new part would not be
  if (!free_.TakeAt(it->first + extent.length, length - extent.length)) return false;
  AddTaken(length - extent.length);
  extent.length = length;
  return true;
}

bool Arena::Contains(const void* address) const {
  return static_cast<uint64_t>(static_cast<const uint8_t*>(address) - base()) < capacity();
}

bool Arena::Find(const void* address, uint64_t size, Allocation* out) {
  if (!Contains(address)) return false;
  uint64_t offset = static_cast<uint64_t>(static_cast<const uint8_t*>(address) - base());
  bool live = false;
  if (!slabs_.Find(offset, out, &live)) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto it = Covering(offset);
    live = it != extents_.end() && (!it->second.freed || it->second.pins > 0);
    if (live) *out = {it->first, it->second.size, it->second.origin};
  }
  return live && size <= out->size && offset - out->offset <= out->size - size;
}

bool Arena::Pin(uint64_t offset) {
  if (inherited_) return false;
  bool pinned;
  uint64_t bytes;
  if (!slabs_.Pin(offset, &pinned, &bytes)) return PinExtent(offset);
  pinned_ += bytes;
  return pinned;
}

bool Arena::PinExtent(uint64_t offset) {
  Range published;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    auto it = extents_.find(offset);
    if (it == extents_.end()) return false;
    Extent& extent = it->second;
    if (extent.freed && extent.pins == 0) return false;
    if (extent.is_private) {
      published = {offset, extent.size};
    } else if (extent.origin == Origin::kNumpy && !extent.freed) {
      if (private_count_ >= kPrivateMax || !mapping_.Privatise(RangeOf(it))) return false;
      extent.is_private = true;
      ++private_count_;
    }
    if (extent.pins++ == 0) pinned_ += extent.size;
  }
  // The pin keeps the range while its pages are examined.
  if (published.length == 0 || !mapping_.Written(published)) return true;
  Unpin(offset);
  return false;
}

void Arena::Unpin(uint64_t offset) {
  if (inherited_) return;  // the parent's pins are the parent's
  uint64_t bytes = 0;
  Excess excess;
  if (slabs_.Unpin(offset, &bytes)) {
    pinned_ -= bytes;
  } else {
    std::lock_guard<std::mutex> lock(mutex_);
    auto it = extents_.find(offset);
    if (it == extents_.end() || it->second.pins == 0) return;
    if (--it->second.pins == 0) {
      pinned_ -= it->second.size;
      if (it->second.freed)
        Retire(it);
      else
        NotePeak();
    }
    excess = ExcessWarm();
  }
  GiveBack(excess.bytes, excess.which);
  WakeDecay();
}

ArenaStats Arena::Stats() {
  if (!inherited_) ReleaseQuarantined();
  std::lock_guard<std::mutex> lock(mutex_);
  return {live_, pinned_, free_.warm(), quarantined_, punched_, unpublished_peak_, mapping_.page()};
}

}  // namespace zerrow
