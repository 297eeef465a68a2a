// See extents.h.
#include "memory/extents.h"

#include <algorithm>
#include <iterator>

namespace zerrow {
namespace {

// The number of candidates to try, of those that may not fit.
constexpr int kTries = 8;

}  // namespace

void FreeExtents::Start(Range all, uint64_t page) {
  page_ = page;
  Put(all, false);
}

Range FreeExtents::Returnable(Range range) const {
  uint64_t begin = RoundUp(range.offset, page_), end = RoundDown(range.end(), page_);
  if (begin > range.offset && split_.count(begin - page_) > 0) begin = range.offset;
  if (end < range.end() && split_.count(end) > 0) end = range.end();
  return begin < end ? Range{begin, end - begin} : Range{range.offset, 0};
}

void FreeExtents::Insert(Range range, bool warm, uint64_t stamp) {
  uint64_t returnable = warm ? Returnable(range).length : 0;
  by_offset_[range.offset] = {range.length, warm, stamp, returnable};
  by_length_[warm].insert({range.length, range.offset});
  if (warm) warm_ += range.length;
  if (returnable == 0) return;
  by_returnable_.insert({returnable, range.offset});
  by_age_.insert({stamp, range.offset});
  returnable_ += returnable;
}

FreeExtents::Extent FreeExtents::Erase(ByOffset::iterator it) {
  Extent extent = it->second;
  uint64_t offset = it->first;
  by_offset_.erase(it);
  by_length_[extent.warm].erase({extent.length, offset});
  if (extent.warm) warm_ -= extent.length;
  if (extent.returnable == 0) return extent;
  by_returnable_.erase({extent.returnable, offset});
  by_age_.erase({extent.stamp, offset});
  returnable_ -= extent.returnable;
  low_water_ = std::min(low_water_, returnable_);
  return extent;
}

void FreeExtents::Put(Range range, bool warm) {
  // Merging removes and re-inserts neighbours, which is no use of them.
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
  if (!warm) JoinPages(range);
  Insert(range, warm, ++clock_);
  low_water_ = low_water;
}

bool FreeExtents::IsColdPage(uint64_t page) const {
  auto after = by_offset_.upper_bound(page);
  if (after == by_offset_.begin()) return false;
  auto it = std::prev(after);
  return !it->second.warm && it->first + it->second.length >= page + page_;
}

void FreeExtents::JoinPages(Range cold) {
  auto first = split_.lower_bound(cold.offset);
  auto last = first;
  while (last != split_.end() && *last + page_ <= cold.end()) ++last;
  split_.erase(first, last);
}

void FreeExtents::Split(uint64_t page) {
  if (!split_.insert(page).second) return;
  // Its other warm parts become returnable.
  uint64_t low_water = low_water_;
  auto it = by_offset_.lower_bound(page);
  if (it != by_offset_.begin() && std::prev(it)->first + std::prev(it)->second.length > page) --it;
  while (it != by_offset_.end() && it->first < page + page_) {
    Range range{it->first, it->second.length};
    auto changed = it++;
    if (!changed->second.warm) continue;
    Insert(range, true, Erase(changed).stamp);
  }
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
  uint64_t first = RoundDown(range.offset, page_), last = RoundDown(range.end() - 1, page_);
  bool before = first < range.offset && IsColdPage(first);
  bool after = last + page_ > range.end() && IsColdPage(last);
  Cut(range);
  auto warm = [this](Range rest) {
    Cut(rest);
    Put(rest, true);
  };
  if (before) warm({first, range.offset - first});
  if (after) warm({range.end(), last + page_ - range.end()});
}

void FreeExtents::Cut(Range range) {
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
  low_water_ = std::min(low_water, returnable_);
}

bool FreeExtents::TakeKind(uint64_t length, uint64_t alignment, bool warm, Range* out) {
  auto& ranges = by_length_[warm];
  auto fits = [&](uint64_t offset, uint64_t have) {
    return RoundUp(offset, alignment) + length <= offset + have;
  };
  // The best candidates may not fit when aligned. After a few of them, take one that fits any
  // alignment.
  auto it = ranges.lower_bound({length, 0});
  for (int i = 0; i < kTries && it != ranges.end() && !fits(it->second, it->first); ++i) ++it;
  if (it != ranges.end() && !fits(it->second, it->first)) it = ranges.lower_bound({length + alignment, 0});
  if (it == ranges.end()) return false;
  *out = {RoundUp(it->second, alignment), length};
  Carve(*out);
  return true;
}

bool FreeExtents::FitsPartlyWarm(Range warm, uint64_t length, uint64_t alignment, Range* out) const {
  uint64_t begin = RoundUp(warm.offset, alignment);
  if (begin >= warm.end()) return false;
  uint64_t end = FreeUpTo(warm.offset, begin + length);
  if (end < begin + length) {
    if (end < length) return false;
    begin = (end - length) / alignment * alignment;
    if (FreeDownTo(warm.offset, begin) > begin) return false;
  }
  *out = {begin, length};
  return true;
}

bool FreeExtents::TakePartlyWarm(uint64_t length, uint64_t alignment, Range* out) {
  // The longest first; of equally long ones the lowest, to fill holes before starting on new
  // memory.
  const ByNumber& ranges = by_length_[1];
  int tries = kTries;
  for (auto end = ranges.end(); end != ranges.begin() && tries > 0;) {
    auto longest = ranges.lower_bound({std::prev(end)->first, 0});
    for (auto it = longest; it != end && tries-- > 0; ++it) {
      if (!FitsPartlyWarm({it->second, it->first}, length, alignment, out)) continue;
      Carve(*out);
      return true;
    }
    end = longest;
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

void FreeExtents::TakeReturnable(uint64_t offset, uint64_t most, Range* out) {
  Extent extent = Erase(by_offset_.find(offset));
  uint64_t end = offset + extent.length;
  Range part = Returnable({offset, extent.length});
  uint64_t begin = std::max(part.offset, RoundDown(part.end() - std::min(most, part.length), page_));
  *out = {begin, part.end() - begin};
  if (offset < begin) Insert({offset, begin - offset}, true, extent.stamp);
  if (part.end() < end) Insert({part.end(), end - part.end()}, true, extent.stamp);
  low_water_ = std::min(low_water_, returnable_);
}

bool FreeExtents::TakeLargestWarm(uint64_t most, Range* out) {
  if (by_returnable_.empty() || most == 0) return false;
  TakeReturnable(by_returnable_.rbegin()->second, most, out);
  return true;
}

bool FreeExtents::TakeOldestWarm(uint64_t most, Range* out) {
  if (by_age_.empty() || most == 0) return false;
  TakeReturnable(by_age_.begin()->second, most, out);
  return true;
}

bool FreeExtents::TakeFragment(Range* out) {
  if (by_length_[1].empty()) return false;
  auto [length, offset] = *by_length_[1].rbegin();
  *out = {offset, length};
  Erase(by_offset_.find(offset));
  uint64_t first = RoundDown(out->offset, page_), last = RoundDown(out->end() - 1, page_);
  if (first < out->offset) Split(first);
  if (last + page_ > out->end()) Split(last);
  return true;
}

std::vector<Range> FreeExtents::TakeGivenBack() {
  std::vector<Range> taken;
  for (uint64_t page : split_) {
    auto it = by_offset_.upper_bound(page);
    if (it != by_offset_.begin() && std::prev(it)->first + std::prev(it)->second.length > page) --it;
    for (; it != by_offset_.end() && it->first < page + page_; ++it) {
      if (it->second.warm) continue;
      uint64_t begin = std::max(it->first, page);
      taken.push_back({begin, std::min(it->first + it->second.length, page + page_) - begin});
    }
  }
  for (Range range : taken) Cut(range);
  return taken;
}

uint64_t FreeExtents::ResetLowWater() { return std::exchange(low_water_, returnable_); }

}  // namespace zerrow
