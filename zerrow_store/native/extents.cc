// See extents.h.
#include "extents.h"

#include <algorithm>
#include <iterator>

namespace zerrow {

void FreeExtents::Insert(Range range, bool warm, uint64_t stamp) {
  by_offset_[range.offset] = {range.length, warm, stamp};
  by_length_[warm].insert({range.length, range.offset});
  if (!warm) return;
  by_age_.insert({stamp, range.offset});
  warm_ += range.length;
}

FreeExtents::Extent FreeExtents::Erase(ByOffset::iterator it) {
  Extent extent = it->second;
  by_length_[extent.warm].erase({extent.length, it->first});
  if (extent.warm) {
    by_age_.erase({extent.stamp, it->first});
    warm_ -= extent.length;
    low_water_ = std::min(low_water_, warm_);
  }
  by_offset_.erase(it);
  return extent;
}

void FreeExtents::Put(Range range, bool warm) {
  // Merging takes neighbours out and in again; that is no use of them.
  uint64_t low_water = low_water_;
  auto next = by_offset_.lower_bound(range.offset);
  if (next != by_offset_.end() && next->first == range.end() && next->second.warm == warm) {
    range.length += next->second.length;
    auto merged = next++;
    Erase(merged);
  }
  if (next != by_offset_.begin()) {
    auto before = std::prev(next);
    if (before->first + before->second.length == range.offset && before->second.warm == warm) {
      range.offset = before->first;
      range.length += before->second.length;
      Erase(before);
    }
  }
  Insert(range, warm, ++clock_);
  low_water_ = low_water;
}

bool FreeExtents::TakeKind(uint64_t length, uint64_t alignment, bool warm, Range* out) {
  auto& ranges = by_length_[warm];
  auto fits = [&](uint64_t offset, uint64_t have) {
    return RoundUp(offset, alignment) + length <= offset + have;
  };
  // An aligned start may not fit the best candidates; after a few of them take one long enough
  // for any alignment.
  auto it = ranges.lower_bound({length, 0});
  for (int i = 0; i < 8 && it != ranges.end() && !fits(it->second, it->first); ++i) ++it;
  if (it != ranges.end() && !fits(it->second, it->first)) it = ranges.lower_bound({length + alignment, 0});
  if (it == ranges.end()) return false;
  Range free{it->second, it->first};
  uint64_t low_water = low_water_;
  uint64_t stamp = Erase(by_offset_.find(free.offset)).stamp;
  *out = {RoundUp(free.offset, alignment), length};
  if (out->offset > free.offset) Insert({free.offset, out->offset - free.offset}, warm, stamp);
  if (free.end() > out->end()) Insert({out->end(), free.end() - out->end()}, warm, stamp);
  low_water_ = std::min(low_water, warm_);
  return true;
}

bool FreeExtents::Take(uint64_t length, uint64_t alignment, bool prefer_warm, Range* out, bool* warm) {
  *warm = prefer_warm;
  if (TakeKind(length, alignment, prefer_warm, out)) return true;
  *warm = !prefer_warm;
  return TakeKind(length, alignment, !prefer_warm, out);
}

bool FreeExtents::TakeAt(uint64_t offset, uint64_t length) {
  auto it = by_offset_.find(offset);
  if (it == by_offset_.end() || it->second.length < length) return false;
  uint64_t low_water = low_water_;
  Extent extent = Erase(it);
  if (extent.length > length) Insert({offset + length, extent.length - length}, extent.warm, extent.stamp);
  low_water_ = std::min(low_water, warm_);
  return true;
}

void FreeExtents::TakeTail(uint64_t offset, uint64_t most, Range* out) {
  Extent extent = Erase(by_offset_.find(offset));
  uint64_t length = std::min(extent.length, RoundUp(most, kPage));
  *out = {offset + extent.length - length, length};
  if (extent.length > length) Insert({offset, extent.length - length}, extent.warm, extent.stamp);
  low_water_ = std::min(low_water_, warm_);
}

bool FreeExtents::TakeLargestWarm(uint64_t most, Range* out) {
  if (by_length_[1].empty() || most == 0) return false;
  TakeTail(std::prev(by_length_[1].end())->second, most, out);
  return true;
}

bool FreeExtents::TakeOldestWarm(uint64_t most, Range* out) {
  if (by_age_.empty() || most == 0) return false;
  TakeTail(by_age_.begin()->second, most, out);
  return true;
}

uint64_t FreeExtents::ResetLowWater() { return std::exchange(low_water_, warm_); }

}  // namespace zerrow
