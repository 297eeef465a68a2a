// The table of tracked allocations, which the parts of Deanon share.
#pragma once
#include <atomic>
#include <map>
#include <mutex>

#include "deanon/deanon.h"

namespace zerrow {

struct TrackedAllocation {
  uint64_t size = 0;
  uint64_t room = 0;
  std::shared_ptr<MovedFile> file;  // has its bytes, from `offset` on
  uint64_t offset = 0;
  bool remapped = false;   // some of its pages map a file
  bool unmovable = false;  // the kernel refused it
};

struct TrackedTable {
  static TrackedTable& Get();

  std::atomic<bool> on{false};
  std::atomic<uint64_t> tracked{0};  // number of allocations; if 0, a free need not take the lock
  std::atomic<uint64_t> files{0};
  std::atomic<uint64_t> not_returned{0};

  std::mutex moving;  // taken before `mutex`, which guards what follows
  std::mutex mutex;
  std::map<uint8_t*, TrackedAllocation> allocations;
  std::map<SegmentId, std::weak_ptr<MovedFile>> by_id;
  uint64_t remapped = 0;  // number of remapped allocations
};

// The whole pages of a range: only these can be moved.
MemoryRange WholePages(MemoryRange range);

}  // namespace zerrow
