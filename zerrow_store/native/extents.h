// The free ranges of an arena: best fit, coalescing, warm and cold kept apart.
//
// A warm range was used before and still has its pages; a cold one reads as zeros and costs
// page faults. Neighbours of the same kind are merged. Pure bookkeeping: no system calls, no
// lock; the arena guards it with its own.
#pragma once
#include <unistd.h>

#include <cstdint>
#include <map>
#include <set>
#include <utility>

namespace zerrow {

inline const uint64_t kPage = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));

inline uint64_t RoundUp(uint64_t n, uint64_t granule) { return (n + granule - 1) / granule * granule; }

struct Range {
  uint64_t offset = 0;
  uint64_t length = 0;
  uint64_t end() const { return offset + length; }
};

class FreeExtents {
 public:
  void Put(Range range, bool warm);
  // Best fit of the preferred kind, else of the other; before a cold range, a warm one that is too
  // short together with what adjoins it. `warm` tells whether any of it is.
  bool Take(uint64_t length, uint64_t alignment, bool prefer_warm, Range* out, bool* warm);
  // Takes what starts right at `offset`, of either kind, so that an allocation ending there can grow.
  bool TakeAt(uint64_t offset, uint64_t length);
  // Take up to `most` warm bytes out of one range, to be punched. False if nothing is warm.
  bool TakeLargestWarm(uint64_t most, Range* out);
  bool TakeOldestWarm(uint64_t most, Range* out);

  uint64_t warm() const { return warm_; }
  // The least amount that was warm since the last call: so much has not been needed.
  uint64_t ResetLowWater();

 private:
  struct Extent {
    uint64_t length;
    bool warm;
    uint64_t stamp;  // order of becoming free; the newest part counts after a merge
  };
  using ByOffset = std::map<uint64_t, Extent>;
  void Insert(Range range, bool warm, uint64_t stamp);
  Extent Erase(ByOffset::iterator it);
  // How far from `offset` on all is free; not looked for beyond `end`.
  uint64_t FreeUpTo(uint64_t offset, uint64_t end) const;
  uint64_t FreeDownTo(uint64_t offset, uint64_t begin) const;
  // Takes a range all of which is free.
  void Carve(Range range);
  bool TakeKind(uint64_t length, uint64_t alignment, bool warm, Range* out);
  bool TakePartlyWarm(uint64_t length, uint64_t alignment, Range* out);
  void TakeTail(uint64_t offset, uint64_t most, Range* out);

  ByOffset by_offset_;
  std::set<std::pair<uint64_t, uint64_t>> by_length_[2];  // (length, offset), index: warm
  std::set<std::pair<uint64_t, uint64_t>> by_age_;        // (stamp, offset) of warm ranges
  uint64_t warm_ = 0;
  uint64_t low_water_ = 0;
  uint64_t clock_ = 0;
};

}  // namespace zerrow
