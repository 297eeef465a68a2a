// See allocations.h.
#include "sipc/allocations.h"

#include <arrow/buffer.h>

#include <algorithm>
#include <cstring>
#include <typeinfo>

namespace zerrow {
namespace {

constexpr uint64_t kInlineAlignment = 16;

uint64_t Size(const arrow::Buffer& buffer) { return static_cast<uint64_t>(buffer.size()); }

// Whether the memory may be shown by a Python object, such as a NumPy array: pyarrow has buffer
// classes of its own for these. One that is read-only may be a view of one that is not, as pandas
// hands them out; it does not say. Nor does a buffer say what it was before it came through the
// Arrow C interface. Arrow's own buffers are mutable only until they are filled, which is before
// this.
bool MayBeShownByPython(const arrow::Buffer& buffer) {
  for (const arrow::Buffer* each = &buffer; each != nullptr; each = each->parent().get()) {
    const char* name = typeid(*each).name();
    if (std::strstr(name, "5arrow2py") != nullptr || std::strstr(name, "ImportedBuffer") != nullptr)
      return true;
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
  if (AddOwn(buffer, &place) || AddMapped(buffer, &place) || AddTracked(buffer, &place)) return place;
  return Size(buffer) <= kInlineLimit ? AddInline(buffer) : AddCopy(buffer);
}

bool AllocationTable::IsOutside(const arrow::Buffer& buffer) const {
  if (arena_ != nullptr && arena_->Contains(buffer.data())) {
    Allocation found;
    return arena_->Find(buffer.data(), Size(buffer), &found) && MayChange(buffer, found);
  }
  if (move_ && Deanon::Find(buffer.data(), Size(buffer)).has_value()) return false;
  return !Segments::Find(buffer).has_value();
}

// NumPy's memory becomes private to its process when it is published. Arrow's does not, as buffers
// that are still being filled may lie beside it; `to_pandas` and `to_numpy` make writable arrays
// over it.
bool AllocationTable::MayChange(const arrow::Buffer& buffer, const Allocation& allocation) {
  return allocation.origin == Origin::kArrow && MayBeShownByPython(buffer);
}

bool AllocationTable::AddOwn(const arrow::Buffer& buffer, Place* place) {
  if (arena_ == nullptr || !arena_->Contains(buffer.data())) return false;
  uint64_t offset = static_cast<uint64_t>(buffer.data() - arena_->base());
  // Buffers of one allocation tend to follow each other.
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

bool AllocationTable::AddMapped(const arrow::Buffer& buffer, Place* place) {
  std::optional<BufferOrigin> origin = Segments::Find(buffer);
  if (!origin) return false;
  std::vector<int64_t>& known = views_[origin->view.get()];
  if (known.empty()) {
    known.assign(origin->view->allocations().size(), -1);
    kept_.push_back(origin->view);
  }
  const MappedAllocation& allocation = origin->view->allocations()[origin->allocation];
  int64_t& index = known[origin->allocation];
  if (index < 0) {
    uint64_t segment = Segment(allocation.mapping->id);
    index = Lookup(segment, allocation.offset);
    // A hostile message may give the same place a smaller size.
    if (index < 0 || allocations_[index].size < allocation.size) {
      index = Append(segment, allocation.offset, allocation.size);
      foreign_.emplace_back(segment, OffsetSize(allocation.offset, allocation.size));
      bytes_reshared_ += allocation.size;
    }
  }
  *place = {index, buffer.data() - allocation.data()};
  return true;
}

bool AllocationTable::AddTracked(const arrow::Buffer& buffer, Place* place) {
  if (!move_) return false;
  std::optional<MemoryRange> range = Deanon::Find(buffer.data(), Size(buffer));
  if (!range) return false;
  auto [known, is_new] = tracked_index_of_.try_emplace(range->address, allocations_.size());
  if (is_new) {
    allocations_.push_back({0, 0, range->size});
    tracked_.push_back(*range);
    tracked_index_.push_back(known->second);
    tracked_is_copy_.push_back(compacting_);
  }
  *place = {known->second, buffer.data() - range->address};
  return true;
}

void AllocationTable::Move() {
  if (tracked_.empty()) return;
  uint64_t copied = 0;
  std::vector<MovedTo> moved = Deanon::Publish(tracked_, &copied);
  for (size_t i = 0; i < moved.size(); ++i) {
    auto [address, size] = tracked_[i];
    AllocationRef& entry = allocations_[tracked_index_[i]];
    if (moved[i].file == nullptr) {
      entry = {OwnSegment(), Copy(address, size), size};
      continue;
    }
    uint64_t segment = Segment(moved[i].file->id);
    bool is_known = Lookup(segment, moved[i].offset) >= 0;  // as data that was decoded from there
    entry = {segment, moved[i].offset, size};
    files_.push_back(moved[i].file);
    if (!is_known) foreign_.emplace_back(segment, OffsetSize(moved[i].offset, size));
    (tracked_is_copy_[i] ? bytes_copied_ : bytes_shared_) += size;
  }
  // The bytes that KernelZero copied were counted as shared.
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
  if (arena_ == nullptr) throw ArenaFull("nothing can be copied: " + Arena::Failure());
  uint8_t* address = arena_->Allocate(size, Origin::kCopy);
  if (address == nullptr) throw ArenaFull(size);
  std::memcpy(address, data, size);
  uint64_t offset = static_cast<uint64_t>(address - arena_->base());
  // From here on only the pin keeps the copy.
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
  encoded->views = std::move(kept_);
  encoded->files = std::move(files_);
  encoded->bytes_shared = bytes_shared_;
  encoded->bytes_reshared = bytes_reshared_;
  encoded->bytes_copied = bytes_copied_;
}

}  // namespace zerrow
