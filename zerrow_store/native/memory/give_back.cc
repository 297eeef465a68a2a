// The arena's return of warm memory to the kernel. decay.cc does so after a time of no use.
#include <algorithm>

#include "memory/arena.h"

namespace zerrow {

void Arena::Trim(uint64_t keep) {
  if (inherited_) return;
  ReleaseQuarantined();
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
  // Empty slabs and quarantined memory count as in use, so the free part of them goes first.
  ReleaseQuarantined();
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
    // Between the locks the range is neither free nor allocated.
    bool punched = mapping_.Punch(range);
    std::lock_guard<std::mutex> lock(mutex_);
    free_.Put(range, !punched);
    if (!punched) break;  // for example, no memory for splitting a page; the next tick tries again
    punched_ += range.length;
    most -= std::min(most, range.length);
  }
  WakeDecay();
}

void Arena::GiveBackAgain() {
  // khugepaged collapses split pages into huge ones again. And a hole punched into a page that is
  // in use at the moment zeroes it, but leaves it whole.
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

}  // namespace zerrow
