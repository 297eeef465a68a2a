// The free ranges of an arena: best fit, coalescing, warm and cold apart.
//
// A warm range has its memory: it was used before, or adjoins used memory in a huge page. A cold
// range reads as zeros and costs page faults. Neighbours of the same kind are merged.
//
// The kernel provides memory in pages of `page` bytes, 4 KiB or 2 MiB: allocating a part of a cold
// page makes the rest of it warm. It takes whole pages back, and also parts of huge ones, which
// splits them: a split page consists of 4 KiB pages until all of it is cold.
//
// Pure bookkeeping: no system calls, no lock; the arena's lock guards it. One class with many small
// methods, which keep its indices of the same ranges consistent.
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
  // Makes `all` free and cold.
  void Start(Range all, uint64_t page);
  void Put(Range range, bool warm);
  // Best fit of the preferred kind, else of the other. Before a cold range it takes a warm one that
  // is too short together with its free neighbours. `warm`: whether any part of the range is.
  bool Take(uint64_t length, uint64_t alignment, bool prefer_warm, Range* out, bool* warm);
  // Takes free memory of either kind at `offset`, so that an allocation that ends there can grow.
  bool TakeAt(uint64_t offset, uint64_t length);
  // These take warm memory, to be punched: up to `most` bytes of one range, in whole pages. False
  // if nothing is returnable.
  bool TakeLargestWarm(uint64_t most, Range* out);
  bool TakeOldestWarm(uint64_t most, Range* out);
  // The largest warm range, which splits the pages at its edges. False if nothing is warm.
  bool TakeFragment(Range* out);
  // The cold parts of split pages, to be punched again.
  std::vector<Range> TakeGivenBack();

  uint64_t warm() const { return warm_; }
  // The warm memory that can be given back without splitting a page.
  uint64_t returnable() const { return returnable_; }
  bool any_split() const { return !split_.empty(); }
  // The minimum of `returnable` since the last call: that much was not needed.
  uint64_t ResetLowWater();

 private:
  struct Extent {
    uint64_t length;
    bool warm;
    uint64_t stamp;  // order of becoming free; after a merge that of the newest part
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
  // The end of the free memory from `offset` on, at most `end`.
  uint64_t FreeUpTo(uint64_t offset, uint64_t end) const;
  uint64_t FreeDownTo(uint64_t offset, uint64_t begin) const;
  // Take a range that is free as a whole. Carve also makes the rest of cold pages warm.
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
