// The free ranges of an arena: best fit, coalescing, warm and cold kept apart.
//
// A warm range has its memory: it was used before, or adjoins what is used in a huge page. A cold
// one reads as zeros and costs page faults. Neighbours of the same kind are merged.
//
// The kernel gives memory in pages of `page` bytes, 4 KiB or 2 MiB: who takes a part of a cold page
// makes the rest of it warm. It takes back whole pages, and of huge ones also parts, which splits
// them: a split page is one of 4 KiB pages until all of it is cold.
//
// Pure bookkeeping: no system calls, no lock; the arena guards it with its own.
#pragma once
#include <unistd.h>

#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <vector>

namespace zerrow {

inline const uint64_t kPage = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));

inline uint64_t RoundDown(uint64_t n, uint64_t granule) { return n / granule * granule; }
inline uint64_t RoundUp(uint64_t n, uint64_t granule) { return RoundDown(n + granule - 1, granule); }

struct Range {
  uint64_t offset = 0;
  uint64_t length = 0;
  uint64_t end() const { return offset + length; }
};

class FreeExtents {
 public:
  // `all` is free and cold.
  void Start(Range all, uint64_t page);
  void Put(Range range, bool warm);
  // Best fit of the preferred kind, else of the other; before a cold range, a warm one that is too
  // short together with what adjoins it. `warm` tells whether any of it is.
  bool Take(uint64_t length, uint64_t alignment, bool prefer_warm, Range* out, bool* warm);
  // Takes what starts right at `offset`, of either kind, so that an allocation ending there can grow.
  bool TakeAt(uint64_t offset, uint64_t length);
  // These take warm memory, to be punched. Up to `most` bytes out of one range, in whole pages;
  // false if nothing is returnable.
  bool TakeLargestWarm(uint64_t most, Range* out);
  bool TakeOldestWarm(uint64_t most, Range* out);
  // The largest range, whose pages are split by that. False if nothing is warm.
  bool TakeFragment(Range* out);
  // What was given back of split pages: cold memory, to be punched once more.
  std::vector<Range> TakeGivenBack();

  uint64_t warm() const { return warm_; }
  // What of it can be given back without splitting a page.
  uint64_t returnable() const { return returnable_; }
  bool any_split() const { return !split_.empty(); }
  // The least amount that was returnable since the last call: so much has not been needed.
  uint64_t ResetLowWater();

 private:
  struct Extent {
    uint64_t length;
    bool warm;
    uint64_t stamp;  // order of becoming free; the newest part counts after a merge
    uint64_t returnable;
  };
  using ByOffset = std::map<uint64_t, Extent>;
  using ByNumber = std::set<std::pair<uint64_t, uint64_t>>;  // (number, offset)
  void Insert(Range range, bool warm, uint64_t stamp);
  Extent Erase(ByOffset::iterator it);
  // The part of a warm range that can be given back without splitting a page.
  Range Returnable(Range range) const;
  bool IsColdPage(uint64_t page) const;
  void Split(uint64_t page);
  void JoinPages(Range cold);
  // How far from `offset` on all is free; not looked for beyond `end`.
  uint64_t FreeUpTo(uint64_t offset, uint64_t end) const;
  uint64_t FreeDownTo(uint64_t offset, uint64_t begin) const;
  // Takes a range all of which is free: for good, or to put it back at once.
  void Carve(Range range);
  void Cut(Range range);
  bool TakeKind(uint64_t length, uint64_t alignment, bool warm, Range* out);
  bool FitsPartlyWarm(Range warm, uint64_t length, uint64_t alignment, Range* out) const;
  bool TakePartlyWarm(uint64_t length, uint64_t alignment, Range* out);
  void TakeReturnable(uint64_t offset, uint64_t most, Range* out);

  uint64_t page_ = kPage;
  ByOffset by_offset_;
  ByNumber by_length_[2];            // index: warm
  ByNumber by_returnable_, by_age_;  // of warm ranges with returnable memory
  std::set<uint64_t> split_;         // pages
  uint64_t warm_ = 0;
  uint64_t returnable_ = 0;
  uint64_t low_water_ = 0;
  uint64_t clock_ = 0;
};

}  // namespace zerrow
