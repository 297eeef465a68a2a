// Which forked children may still read this arena's memory.
//
// Each fork starts an epoch. What was allocated before a fork is visible to that child, so
// its memory must not be recycled before the child is gone. A child is watched through a
// pipe whose write end only it (and its own children) keep: the pipe hangs up when the
// last of them exits or executes another program. A child that closes descriptors it does
// not know counts as gone. No lock: the arena guards it; `epoch` is read without.
#pragma once
#include <atomic>
#include <cstdint>
#include <vector>

namespace zerrow {

class Children {
 public:
  uint32_t epoch() const { return epoch_.load(std::memory_order_relaxed); }
  // Whether a child lives that was forked after something was allocated in epoch `born`.
  bool MaySee(uint32_t born) const { return newest_ > born; }
  bool any() const { return !children_.empty(); }
  // Forgets the children that are gone. True if there were any.
  bool Reap();

  // Around fork().
  void Prepare();
  void AfterInParent();
  void AfterInChild();

 private:
  struct Child {
    int pipe;         // read end; -1 if there was no descriptor left: never known to be gone
    uint32_t forked;  // allocations of earlier epochs are visible to it
  };
  std::atomic<uint32_t> epoch_{0};
  uint32_t newest_ = 0;  // largest `forked` of the living; 0 if none lives
  std::vector<Child> children_;
  int pipe_[2] = {-1, -1};
};

}  // namespace zerrow
