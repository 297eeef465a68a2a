// See fork_guard.h.
#include "memory/fork_guard.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>

namespace zerrow {

bool ForkGuard::Reap() {
  auto gone = [](const Child& child) {
    pollfd poller{child.pipe, 0, 0};
    if (child.pipe < 0 || poll(&poller, 1, 0) != 1) return false;
    close(child.pipe);
    return true;
  };
  auto end = std::remove_if(children_.begin(), children_.end(), gone);
  if (end == children_.end()) return false;
  children_.erase(end, children_.end());
  newest_ = children_.empty() ? 0 : children_.back().forked;
  return true;
}

void ForkGuard::Prepare() {
  children_.reserve(children_.size() + 1);
  if (pipe2(pipe_, O_CLOEXEC) != 0) pipe_[0] = pipe_[1] = -1;
}

void ForkGuard::AfterInParent() {
  // Also called for a fork that failed, whose pipe hangs up at once.
  if (pipe_[1] >= 0) close(pipe_[1]);
  newest_ = epoch_.fetch_add(1) + 1;
  children_.push_back({pipe_[0], newest_});
}

void ForkGuard::AfterInChild() {
  if (pipe_[0] >= 0) close(pipe_[0]);
  for (const Child& sibling : children_)
    if (sibling.pipe >= 0) close(sibling.pipe);
  children_.clear();
  newest_ = 0;
}

}  // namespace zerrow
