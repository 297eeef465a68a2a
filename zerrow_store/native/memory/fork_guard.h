// The fork guard of an arena: it knows which forked children may still read the arena's memory.
//
// Each fork starts an epoch. A child sees what was allocated before its fork, so that memory must
// not be recycled while the child lives. A pipe tells when it has gone: only the child, and its own
// children, keep the write end, and it hangs up when the last of them exits or executes another
// program. A child that closes unknown descriptors counts as gone. No lock: the arena's `mutex_`
// guards it; `epoch` is read without.
#pragma once
#include <atomic>
#include <cstdint>
#include <vector>

namespace zerrow {

class ForkGuard {
 public:
  uint32_t epoch() const { return epoch_.load(std::memory_order_relaxed); }
  // Whether a living child was forked after epoch `born`, and so sees an allocation made in it.
  bool MaySee(uint32_t born) const { return newest_ > born; }
  bool any() const { return !children_.empty(); }
  // Forgets the children that have gone. True if there were any.
  bool Reap();

  // Around fork().
  void Prepare();
  void AfterInParent();
  void AfterInChild();

 private:
  struct Child {
    int pipe;         // read end; -1 if no descriptor was free, and then it counts as living for good
    uint32_t forked;  // it sees allocations of earlier epochs
  };
  std::atomic<uint32_t> epoch_{0};
  uint32_t newest_ = 0;  // largest `forked` of the living children; 0 if there are none
  std::vector<Child> children_;
  int pipe_[2] = {-1, -1};
};

}  // namespace zerrow
