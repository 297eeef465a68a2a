// What the parts of Movable share: the table of known allocations.
#pragma once
#include <atomic>
#include <map>
#include <mutex>

#include "deanon/movable.h"

namespace zerrow {

struct MovableAllocation {
  uint64_t size = 0;
  uint64_t room = 0;
  std::shared_ptr<MovedFile> file;  // that has its bytes, from `offset` on
  uint64_t offset = 0;
  bool replaced = false;   // some of its whole pages are a file's mapping
  bool unmovable = false;  // was tried, and will not go
};

struct MovableBooks {
  static MovableBooks& Get();

  std::atomic<bool> on{false};
  std::atomic<uint64_t> known{0};  // number of allocations; most frees need not look further
  std::atomic<uint64_t> files{0};
  std::atomic<uint64_t> not_returned{0};

  std::mutex moving;  // taken before `mutex`, which guards what follows
  std::mutex mutex;
  std::map<uint8_t*, MovableAllocation> allocations;
  std::map<SegmentId, std::weak_ptr<MovedFile>> by_id;
  uint64_t replaced = 0;  // allocations of which this is true
};

// The part of a range that can be moved, rather than copied.
MovableRange WholePages(MovableRange range);

}  // namespace zerrow
