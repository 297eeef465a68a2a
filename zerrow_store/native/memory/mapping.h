// The file of an arena, and its one mapping.
//
// The file is sparse and has a fixed size. No other process can change the size (the file is
// sealed, or cannot be opened for writing), so a reader's mapping never faults. Ranges can become
// private to this process: its later writes then do not reach the file. No lock: every call is one
// system call on a range that the caller owns.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "memory/extents.h"
#include "memory/memory_file.h"

namespace zerrow {

// Whether this process has written to whole pages of a private file mapping; true if that cannot be
// found out.
bool PrivatelyWritten(const uint8_t* address, uint64_t length);

// Zeroes whole pages of anonymous memory. Pages that were never touched stay holes.
void ZeroPages(uint8_t* address, uint64_t length);

class Mapping {
 public:
  // Tries `capacity`, and halves it while the system refuses. Returns why there is none; empty: it
  // is there. sealable: seals may be added to the file later.
  std::string Create(uint64_t capacity, HugePages huge_pages, bool sealable);

  // False on failure, which changes nothing.
  bool Privatise(Range range);
  bool Share(Range range);
  bool Punch(Range range);
  // Bytes that the file has in memory.
  uint64_t Resident() const;
  // As PrivatelyWritten.
  bool Written(Range range) const;

  // In a forked child: detaches it from the parent's file. `shared`: the ranges that are not
  // private yet. False if a part can only be read from now on.
  bool Detach(const std::vector<Range>& shared);
  // In a forked child: discards its writes to a private range.
  void Forget(Range range);

  int fd() const { return file_.fd; }
  // The size of the file's pages.
  uint64_t page() const { return file_.page; }
  uint8_t* base() const { return base_; }
  uint64_t capacity() const { return capacity_; }

 private:
  // Whether the descriptor is still the file's. A program that closes what it does not know may
  // have another file there since.
  bool IsOwn() const;
  bool TryMap(uint64_t capacity);
  bool Map(Range range, int flags);
  void HideFromCores(Range range);
  bool FixSize(bool sealable);
  void PreferHugePages(Range range);

  MemoryFile file_;
  dev_t device_ = 0;
  ino_t inode_ = 0;
  uint8_t* base_ = nullptr;
  uint64_t capacity_ = 0;
};

}  // namespace zerrow
