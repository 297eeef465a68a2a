// See extents.h.
#include "extents.h"

#include <algorithm>
#include <iterator>

namespace zerrow {
namespace {

// Candidates that are looked at, of those that may not fit.
constexpr int kTries = 8;

}  // namespace

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

uint64_t FreeExtents::FreeUpTo(uint64_t offset, uint64_t end) const {
  for (auto it = by_offset_.find(offset); offset < end && it != by_offset_.end() && it->first == offset; ++it)
    offset += it->second.length;
  return std::min(offset, end);
}

uint64_t FreeExtents::FreeDownTo(uint64_t offset, uint64_t begin) const {
  for (auto it = by_offset_.find(offset); offset > begin && it != by_offset_.begin(); offset = it->first) {
    --it;
    if (it->first + it->second.length != offset) break;
  }
  return std::max(offset, begin);
}

void FreeExtents::Carve(Range range) {
  uint64_t low_water = low_water_;
  auto it = std::prev(by_offset_.upper_bound(range.offset));
  while (it != by_offset_.end() && it->first < range.end()) {
    Range free{it->first, it->second.length};
    auto carved = it++;
    Extent extent = Erase(carved);
    if (free.offset < range.offset)
      Insert({free.offset, range.offset - free.offset}, extent.warm, extent.stamp);
    if (free.end() > range.end()) Insert({range.end(), free.end() - range.end()}, extent.warm, extent.stamp);
  }
  low_water_ = std::min(low_water, warm_);
}

bool FreeExtents::TakeKind(uint64_t length, uint64_t alignment, bool warm, Range* out) {
  auto& ranges = by_length_[warm];
  auto fits = [&](uint64_t offset, uint64_t have) {
    return RoundUp(offset, alignment) + length <= offset + have;
  };
  // An aligned start may not fit the best candidates; after a few of them take one long enough
  // for any alignment.
  auto it = ranges.lower_bound({length, 0});
  for (int i = 0; i < kTries && it != ranges.end() && !fits(it->second, it->first); ++i) ++it;
  if (it != ranges.end() && !fits(it->second, it->first)) it = ranges.lower_bound({length + alignment, 0});
  if (it == ranges.end()) return false;
  *out = {RoundUp(it->second, alignment), length};
  Carve(*out);
  return true;
}

bool FreeExtents::TakePartlyWarm(uint64_t length, uint64_t alignment, Range* out) {
  int tries = kTries;
  for (auto it = by_length_[1].rbegin(); it != by_length_[1].rend() && tries-- > 0; ++it) {
    Range warm{it->second, it->first};
    uint64_t begin = RoundUp(warm.offset, alignment);
    if (begin >= warm.end()) continue;
    uint64_t end = FreeUpTo(warm.offset, begin + length);
    if (end < begin + length) {
      if (end < length) continue;
      begin = (end - length) / alignment * alignment;
      if (FreeDownTo(warm.offset, begin) > begin) continue;
    }
    *out = {begin, length};
    Carve(*out);
    return true;
  }
  return false;
}

bool FreeExtents::Take(uint64_t length, uint64_t alignment, bool prefer_warm, Range* out, bool* warm) {
  *warm = prefer_warm;
  if (TakeKind(length, alignment, prefer_warm, out)) return true;
  if (prefer_warm && TakePartlyWarm(length, alignment, out)) return true;
  *warm = !prefer_warm;
  return TakeKind(length, alignment, !prefer_warm, out);
}

bool FreeExtents::TakeAt(uint64_t offset, uint64_t length) {
  if (FreeUpTo(offset, offset + length) < offset + length) return false;
  Carve({offset, length});
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
