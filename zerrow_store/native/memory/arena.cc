// See arena.h. Here: allocation, recycling and pins; decay.cc and fork.cc have the rest.
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

// Each private range may cost two entries of the vm.max_map_count (65530 by default) that
// the process shares with everything else; beyond this, publication copies.
constexpr uint32_t kPrivateMax = 1000;
// From here on zeroed memory is taken cold: the pages that are not used then cost nothing.
constexpr uint64_t kZeroedCold = 4u << 20;
// Whole huge pages may take an eighth more than is asked for.
constexpr uint64_t kWaste = 8;
// Smaller allocations do not wait when producers are held back.
constexpr uint64_t kHeldBackMin = 1u << 20;

// Whole huge pages, where an allocation fills them: when it is freed, all of its memory can go back,
// whatever lies beside it. Coarser for larger ones, so that sizes which differ little recycle each
// other's memory.
uint64_t ExtentLength(uint64_t size, uint64_t page) {
  uint64_t whole = RoundUp(size, page);
  if (page == kHugePage && whole - size <= size / kWaste) return whole;
  return RoundUp(size, size >= (1u << 20) ? std::max<uint64_t>(64u << 10, kPage) : kPage);
}

}  // namespace

bool Arena::Init(uint64_t wanted, HugePages huge_pages, bool sealable) {
  id_.resize(16);
  if (getrandom(id_.data(), id_.size(), 0) != static_cast<ssize_t>(id_.size())) return false;
  if (!mapping_.Create(wanted, huge_pages, sealable) || !slabs_.Init(capacity())) return false;
  free_.Start({0, capacity()}, mapping_.page());
  return true;
}

uint8_t* Arena::Allocate(uint64_t size, Origin origin, bool zeroed) {
  if (inherited_ || size > capacity()) return nullptr;
  size = std::max<uint64_t>(size, 1);
  if (size >= kHeldBackMin && origin == Origin::kArrow) AwaitRoom();
  uint64_t offset;
  bool dirty = true;
  // NumPy's memory may become private later, page by page: it shares no page with others.
  if (size <= kSlotMax && origin != Origin::kNumpy) {
    if (!slabs_.Allocate(size, origin, children_.epoch(), &offset)) return nullptr;
  } else {
    bool prefer_warm = !zeroed || size < kZeroedCold;
    if (!AllocateExtent(size, origin, prefer_warm, &offset, &dirty)) {
      // Full, or in pieces: what is held may be free by now, and cold ranges merge.
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
  // Whoever holds the GIL does not wait: what ends the wait may need it, and what is being converted under
  // it must not change meanwhile. Looked at again and again, without a lock of ours: the caller may hold any
  // of Arrow's.
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
    extents_[range.offset] = {range.length, size, children_.epoch(), 0, origin, false, false};
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

bool Arena::HoldSlot(uint64_t offset, uint32_t born, uint64_t size) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!children_.MaySee(born)) return false;
  Hold(offset, born, size);
  return true;
}

void Arena::PutWarm(Range range) {
  free_.Put(range, true);
  taken_ -= range.length;
  watch_ = used_ = true;
}

void Arena::Hold(uint64_t offset, uint32_t born, uint64_t size) {
  held_.push_back({offset, born, size});
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
  // The memory is a private copy of the parent's. Only whole pages can be let go of.
  std::lock_guard<std::mutex> lock(mutex_);
  auto it = extents_.find(offset);
  if (it == extents_.end()) return;
  mapping_.Forget(RangeOf(it));
  extents_.erase(it);
}

void Arena::Retire(Extents::iterator it) {
  if (!children_.MaySee(it->second.born)) return Recycle(it);
  Hold(it->first, it->second.born, it->second.length);
}

void Arena::Recycle(Extents::iterator it) {
  Range range = RangeOf(it);
  if (it->second.is_private) {
    if (!mapping_.Share(range)) {
      // Too many mappings at the moment; tried again with what is held for children.
      Hold(range.offset, it->second.born, range.length);
      return;
    }
    --private_count_;
  }
  extents_.erase(it);
  PutWarm(range);
}

void Arena::ReleaseHeld() {
  std::vector<Held> candidates;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    children_.Reap();
    auto free = std::partition(held_.begin(), held_.end(),
                               [&](const Held& held) { return children_.MaySee(held.born); });
    candidates.assign(free, held_.end());
    held_.erase(free, held_.end());
    for (const Held& held : candidates) quarantined_ -= held.size;
  }
  for (const Held& held : candidates) {
    if (slabs_.Recycle(held.offset)) continue;
    std::lock_guard<std::mutex> lock(mutex_);
    Recycle(extents_.find(held.offset));
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
  // A tiny rest is better off in a slab: a page of its own would be mostly empty.
  if (size <= kPage && extent.origin != Origin::kNumpy) return false;
  uint64_t length = ExtentLength(size, mapping_.page());
  if (length > extent.length && !GrowExtent(it, length)) return false;
  // The tail stays where a child may read it, or where a mapping would have to be split.
  if (length < extent.length && !extent.is_private && !children_.MaySee(extent.born)) {
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
  // The pin keeps the range as it is while its pages are looked at.
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

void Arena::Trim(uint64_t keep) {
  if (inherited_) return;
  ReleaseHeld();
  slabs_.ReturnIdle(true);
  uint64_t warm;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    warm = free_.warm();
  }
  if (warm > keep) GiveBack(warm - keep, Which::kAny);
}

void Arena::BoundUnpublished(uint64_t limit) {
  if (inherited_) return;
  auto excess = [&] {
    std::lock_guard<std::mutex> lock(mutex_);
    unpublished_limit_ = limit;
    return ExcessWarm();
  };
  if (excess().bytes == 0) return;
  // Empty slabs and what is held count as in use: what of them is free goes first.
  ReleaseHeld();
  slabs_.ReturnIdle(true);
  Excess left = excess();
  GiveBack(left.bytes, left.which);
}

bool Arena::TakeWarm(uint64_t most, Which which, Range* out) {
  if (which == Which::kOldest) return free_.TakeOldestWarm(most, out);
  return free_.TakeLargestWarm(most, out) || (which == Which::kAny && free_.TakeFragment(out));
}

void Arena::GiveBack(uint64_t most, Which which) {
  if (most == 0) return;
  while (most > 0) {
    Range range;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!TakeWarm(most, which, &range)) break;
      if (free_.any_split()) watch_ = true;
    }
    // Between the locks the range is nobody's.
    bool punched = mapping_.Punch(range);
    std::lock_guard<std::mutex> lock(mutex_);
    free_.Put(range, !punched);
    if (!punched) break;  // short of memory for splitting pages, say; the next tick tries again
    punched_ += range.length;
    most -= std::min(most, range.length);
  }
  WakeDecay();
}

void Arena::GiveBackAgain() {
  // khugepaged makes split pages whole again; and a page that is in use at the moment stays whole, but
  // zeroed, where a hole is punched.
  std::vector<Range> ranges;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!free_.any_split() || mapping_.Resident() <= taken_ + free_.warm()) return;
    ranges = free_.TakeGivenBack();
  }
  for (Range range : ranges) mapping_.Punch(range);
  std::lock_guard<std::mutex> lock(mutex_);
  for (Range range : ranges) free_.Put(range, false);
}

ArenaStats Arena::Stats() {
  if (!inherited_) ReleaseHeld();
  std::lock_guard<std::mutex> lock(mutex_);
  return {live_, pinned_, free_.warm(), quarantined_, punched_, unpublished_peak_, mapping_.page()};
}

}  // namespace zerrow
