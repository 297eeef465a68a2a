// Where the buffers of a message lie.
#include "sipc/allocations.h"

#include <arrow/buffer.h>

#include <algorithm>
#include <cstring>
#include <typeinfo>

namespace zerrow {
namespace {

constexpr uint64_t kInlineAlignment = 16;

uint64_t Size(const arrow::Buffer& buffer) { return static_cast<uint64_t>(buffer.size()); }

// Whether the memory is that of a Python object that can be written to, such as a NumPy array: pyarrow has
// classes of its own for these buffers. Arrow's are mutable until they are filled, which is before this.
bool IsWritableInPython(const arrow::Buffer& buffer) {
  for (const arrow::Buffer* each = &buffer; each != nullptr; each = each->parent().get()) {
    if (each->is_mutable() && std::strstr(typeid(*each).name(), "5arrow2py") != nullptr) return true;
  }
  return false;
}

}  // namespace

ArenaFull::ArenaFull(uint64_t size)
    : message_("the arena has no room for a copy of " + std::to_string(size) +
               " bytes: drop data, or configure a larger arena") {}

AllocationTable::~AllocationTable() {
  for (const OffsetSize& range : own_) arena_->Unpin(range.first);
}

Place AllocationTable::Add(const arrow::Buffer& buffer) {
  Place place;
  if (AddOwn(buffer, &place) || AddHeld(buffer, &place) || AddMovable(buffer, &place)) return place;
  return Size(buffer) <= kInlineLimit ? AddInline(buffer) : AddCopy(buffer);
}

bool AllocationTable::IsOutside(const arrow::Buffer& buffer) const {
  if (arena_ != nullptr && arena_->Contains(buffer.data())) {
    Allocation found;
    return arena_->Find(buffer.data(), Size(buffer), &found) && MayChange(buffer, found);
  }
  if (move_ && Movable::Find(buffer.data(), Size(buffer)).has_value()) return false;
  return !Segments::Find(buffer).has_value();
}

// NumPy's own memory becomes private to its process when it is published. Arrow's lies beside what is
// still to be filled, and arrays over it that can be written to come from `to_pandas` and `to_numpy`.
bool AllocationTable::MayChange(const arrow::Buffer& buffer, const Allocation& allocation) {
  return allocation.origin == Origin::kArrow && IsWritableInPython(buffer);
}

bool AllocationTable::AddOwn(const arrow::Buffer& buffer, Place* place) {
  if (arena_ == nullptr || !arena_->Contains(buffer.data())) return false;
  uint64_t offset = static_cast<uint64_t>(buffer.data() - arena_->base());
  // Slices and columns of one allocation tend to come one after the other.
  bool again = last_own_index_ >= 0 && offset >= last_own_.offset &&
               offset - last_own_.offset + Size(buffer) <= last_own_.size;
  if (again && MayChange(buffer, last_own_)) return false;
  if (!again) {
    Allocation found;
    if (!arena_->Find(buffer.data(), Size(buffer), &found) || written_.count(found.offset) != 0) return false;
    if (MayChange(buffer, found)) return false;
    int64_t index = Lookup(OwnSegment(), found.offset);
    if (index < 0) {
      if (!arena_->Pin(found.offset)) {
        written_.insert(found.offset);
        return false;
      }
      own_.emplace_back(found.offset, found.size);
      index = Append(OwnSegment(), found.offset, found.size);
      (compacting_ ? bytes_copied_ : bytes_shared_) += found.size;
    }
    last_own_ = found;
    last_own_index_ = index;
  }
  *place = {last_own_index_, static_cast<int64_t>(offset - last_own_.offset)};
  return true;
}

bool AllocationTable::AddHeld(const arrow::Buffer& buffer, Place* place) {
  std::optional<Held> held = Segments::Find(buffer);
  if (!held) return false;
  std::vector<int64_t>& known = holds_[held->hold.get()];
  if (known.empty()) {
    known.assign(held->hold->allocations().size(), -1);
    kept_.push_back(held->hold);
  }
  const HeldAllocation& allocation = held->hold->allocations()[held->allocation];
  int64_t& index = known[held->allocation];
  if (index < 0) {
    uint64_t segment = Segment(allocation.mapping->id);
    index = Lookup(segment, allocation.offset);
    // A hostile message may have held the same place with a smaller size.
    if (index < 0 || allocations_[index].size < allocation.size) {
      index = Append(segment, allocation.offset, allocation.size);
      foreign_.emplace_back(segment, OffsetSize(allocation.offset, allocation.size));
      bytes_reshared_ += allocation.size;
    }
  }
  *place = {index, buffer.data() - allocation.data()};
  return true;
}

bool AllocationTable::AddMovable(const arrow::Buffer& buffer, Place* place) {
  if (!move_) return false;
  std::optional<MovableRange> range = Movable::Find(buffer.data(), Size(buffer));
  if (!range) return false;
  auto [known, is_new] = movable_known_.try_emplace(range->address, allocations_.size());
  if (is_new) {
    allocations_.push_back({0, 0, range->size});
    movable_.push_back(*range);
    movable_index_.push_back(known->second);
    movable_is_copy_.push_back(compacting_);
  }
  *place = {known->second, buffer.data() - range->address};
  return true;
}

void AllocationTable::Move() {
  if (movable_.empty()) return;
  uint64_t copied = 0;
  std::vector<Moved> moved = Movable::Publish(movable_, &copied);
  for (size_t i = 0; i < moved.size(); ++i) {
    auto [address, size] = movable_[i];
    AllocationRef& entry = allocations_[movable_index_[i]];
    if (moved[i].file == nullptr) {
      entry = {OwnSegment(), Copy(address, size), size};
      continue;
    }
    uint64_t segment = Segment(moved[i].file->id);
    bool is_known = Lookup(segment, moved[i].offset) >= 0;  // as what was decoded from there
    entry = {segment, moved[i].offset, size};
    files_.push_back(moved[i].file);
    if (!is_known) foreign_.emplace_back(segment, OffsetSize(moved[i].offset, size));
    (movable_is_copy_[i] ? bytes_copied_ : bytes_shared_) += size;
  }
  // What had to be copied on the way was counted as shared.
  copied = std::min(copied, bytes_shared_);
  bytes_shared_ -= copied;
  bytes_copied_ += copied;
}

Place AllocationTable::AddCopy(const arrow::Buffer& buffer) {
  auto [copy, is_new] = copies_.try_emplace({reinterpret_cast<uint64_t>(buffer.data()), Size(buffer)}, -1);
  if (is_new) copy->second = Append(OwnSegment(), Copy(buffer.data(), Size(buffer)), Size(buffer));
  return {copy->second, 0};
}

uint64_t AllocationTable::Copy(const uint8_t* data, uint64_t size) {
  uint8_t* address = arena_ == nullptr ? nullptr : arena_->Allocate(size, Origin::kCopy);
  if (address == nullptr) throw ArenaFull(size);
  std::memcpy(address, data, size);
  uint64_t offset = static_cast<uint64_t>(address - arena_->base());
  // Only the pin keeps the copy from here on.
  bool pinned = arena_->Pin(offset);
  arena_->Free(address);
  if (!pinned) throw ArenaFull(size);
  own_.emplace_back(offset, size);
  bytes_copied_ += size;
  return offset;
}

Place AllocationTable::AddInline(const arrow::Buffer& buffer) {
  inlined_.resize((inlined_.size() + kInlineAlignment - 1) & ~(kInlineAlignment - 1));
  int64_t offset = static_cast<int64_t>(inlined_.size());
  inlined_.append(reinterpret_cast<const char*>(buffer.data()), Size(buffer));
  bytes_copied_ += Size(buffer);
  return {kInline, offset};
}

int64_t AllocationTable::Lookup(uint64_t segment, uint64_t offset) const {
  auto found = indices_.find({segment, offset});
  return found == indices_.end() ? -1 : found->second;
}

int64_t AllocationTable::Append(uint64_t segment, uint64_t offset, uint64_t size) {
  int64_t index = static_cast<int64_t>(allocations_.size());
  allocations_.push_back({segment, offset, size});
  indices_[{segment, offset}] = index;
  return index;
}

uint64_t AllocationTable::Segment(const SegmentId& id) {
  for (uint64_t i = 0; i < segments_.size(); ++i) {
    if (segments_[i] == id) return i;
  }
  segments_.push_back(id);
  return segments_.size() - 1;
}

uint64_t AllocationTable::OwnSegment() { return Segment(ToSegmentId(arena_->id())); }

void AllocationTable::Release(Encoded* encoded) {
  encoded->own = std::move(own_);
  own_.clear();
  for (const auto& [segment, range] : foreign_) encoded->foreign[segments_[segment]].push_back(range);
  encoded->holds = std::move(kept_);
  encoded->files = std::move(files_);
  encoded->bytes_shared = bytes_shared_;
  encoded->bytes_reshared = bytes_reshared_;
  encoded->bytes_copied = bytes_copied_;
}

}  // namespace zerrow
