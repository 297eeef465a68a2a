// A sparse file of fixed size and its one mapping: the ground an arena stands on.
//
// Nobody else can change the file's size (it is sealed, or cannot be opened for writing), so a
// reader's mapping of it never faults. Ranges can be made private to this process: its later writes
// then stay out of the file. No lock: every call is one system call on a range that the caller owns.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "memory/extents.h"
#include "memory/memory_file.h"

namespace zerrow {

// Whether this process wrote to whole pages of a private file mapping; true also when that cannot be told.
bool PrivatelyWritten(const uint8_t* address, uint64_t length);

// Zeroes whole pages of anonymous memory, but those that were never touched, which stay holes.
void ZeroPages(uint8_t* address, uint64_t length);

class Mapping {
 public:
  // Tries `capacity`, then halves of it while the system refuses. False if nothing is to be had.
  // sealable: more seals may be added to the file later.
  bool Create(uint64_t capacity, HugePages huge_pages, bool sealable);

  // False on failure, and then nothing has changed.
  bool Privatise(Range range);
  bool Share(Range range);
  bool Punch(Range range);
  // Bytes that the file has in memory.
  uint64_t Resident() const;
  // As PrivatelyWritten.
  bool Written(Range range) const;

  // In a forked child: keeps it from the parent's file. `shared` are the used, not private ranges.
  void Detach(const std::vector<Range>& shared);
  // In a forked child: lets go of what it wrote in a private range.
  void Forget(Range range);

  int fd() const { return file_.fd; }
  // In pages of this size the kernel gives and takes the file's memory.
  uint64_t page() const { return file_.page; }
  uint8_t* base() const { return base_; }
  uint64_t capacity() const { return capacity_; }

 private:
  bool TryMap(uint64_t capacity);
  bool FixSize(bool sealable);
  void PreferHugePages(Range range);

  MemoryFile file_;
  uint8_t* base_ = nullptr;
  uint64_t capacity_ = 0;
};

}  // namespace zerrow
