// The arena's decay thread, which gives warm memory back to the kernel after a time of no use.
//
// The low-water mark is the memory that was warm, in whole pages, throughout the last kSpans spans
// of decay_ms / kSpans: it was not needed in that time. That much is punched, oldest first. If
// memory is short, so is the memory that was warm throughout the last tick. A process that has not
// used its arena for kIdleTicks also gives up parts of huge pages, until it has no more than
// kIdleBytes beside what is published. While there are split pages, the thread punches them again
// if the kernel has refilled them. The thread starts with the first freed extent, sleeps while
// there is nothing to watch, takes no signals and is never joined: like the arena, it may outlive
// the interpreter.
#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <iterator>
#include <system_error>
#include <thread>
#include <utility>

#include "memory/arena.h"

namespace zerrow {
namespace {

constexpr uint64_t kTickMs = 125;
constexpr int kIdleTicks = 80;
constexpr uint64_t kIdleBytes = 2 * kHugePage;
constexpr std::chrono::seconds kSplitTick(1);

}  // namespace

uint64_t Arena::TickMs() const {
  return decay_ms_ == 0 ? kTickMs : std::clamp<uint64_t>(decay_ms_ / kSpans, 1, kTickMs);
}

bool Arena::StartDecay() {
  // Signals are for the program's threads: Python's handlers run in the main one.
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  bool started = true;
  try {
    std::thread([this] { DecayLoop(); }).detach();
  } catch (const std::system_error&) {
    started = false;  // out of threads; the next free tries again
  }
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  return started;
}

void Arena::WakeDecay() {
  if (!decay_asleep_ || !(watch_ || slabs_.idle())) return;
  std::lock_guard<std::mutex> lock(decay_mutex_);
  decay_asleep_ = false;
  if (decay_started_)
    decay_wake_.notify_one();
  else if (!(decay_started_ = StartDecay()))
    decay_asleep_ = true;
}

uint64_t Arena::IdleExcess() const {
  uint64_t held = Unpublished() + free_.warm();
  return std::min(free_.warm(), held - std::min(held, kIdleBytes));
}

bool Arena::AnySplit() {
  std::lock_guard<std::mutex> lock(mutex_);
  return free_.any_split();
}

bool Arena::DecayIdle() {
  if (slabs_.idle()) return false;
  std::lock_guard<std::mutex> lock(mutex_);
  bool due = free_.returnable() > 0 || IdleExcess() > 0;
  watch_ = due || !quarantine_.empty() || fork_guard_.any();
  return !watch_;
}

void Arena::DecayLoop() {
  auto tick = std::chrono::milliseconds(TickMs());
  for (;;) {
    std::unique_lock<std::mutex> lock(decay_mutex_);
    decay_asleep_ = true;
    // A later free waits for the lock; an earlier one is seen here.
    if (DecayIdle()) {
      auto woken = [this] { return !decay_asleep_; };
      if (AnySplit())
        decay_wake_.wait_for(lock, kSplitTick, woken);
      else
        decay_wake_.wait(lock, woken);
    } else {
      decay_asleep_ = false;
      lock.unlock();
      std::this_thread::sleep_for(tick);
    }
    if (lock.owns_lock()) lock.unlock();
    DecayTick();
  }
}

void Arena::DecayTick() {
  ReleaseQuarantined();
  uint64_t ticks_a_span = std::max<uint64_t>(decay_ms_ / kSpans / TickMs(), 1);
  bool begins = tick_ % ticks_a_span == 0;
  if (begins) {
    slabs_.ReturnIdle(false);
    GiveBackAgain();
  }
  uint64_t& span = low_water_[tick_++ / ticks_a_span % kSpans];
  uint64_t lowest, unused, parts;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    lowest = free_.ResetLowWater();
    span = begins ? lowest : std::min(span, lowest);
    unused = *std::min_element(std::begin(low_water_), std::end(low_water_));
    idle_ticks_ = std::exchange(used_, false) ? 0 : idle_ticks_ + 1;
    parts = idle_ticks_ < kIdleTicks ? 0 : IdleExcess();
  }
  if (parts > 0) return GiveBack(parts, Which::kAny);
  if (lowest > 0 && memory_pressure_.IsShort()) unused = lowest;
  if (decay_ms_ == 0) unused = UINT64_MAX;
  if (unused == 0) return;
  GiveBack(unused, Which::kOldest);
  for (uint64_t& low : low_water_) low -= std::min(low, unused);
}

}  // namespace zerrow
