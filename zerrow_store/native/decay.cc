// The arena's background thread: gives warm memory back when it has stayed unused.
//
// What has been warm, in whole pages, throughout the last kTicks ticks of decay_ms / kTicks (the
// low-water mark) was not needed in that time; so much is punched, oldest first. The thread
// starts with the first freed extent, sleeps while there is nothing to watch, takes no
// signals and is never joined: like the arena, it may outlive the interpreter.
#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <iterator>
#include <system_error>
#include <thread>

#include "arena.h"

namespace zerrow {

bool Arena::StartDecay() {
  // Signals are for the threads of the program: Python's handlers want the main one.
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

bool Arena::DecayIdle() {
  if (slabs_.idle()) return false;
  std::lock_guard<std::mutex> lock(mutex_);
  watch_ = free_.returnable() > 0 || !held_.empty() || children_.any();
  return !watch_;
}

void Arena::DecayLoop() {
  auto tick = std::chrono::milliseconds(decay_ms_ == 0 ? 250 : std::max<uint64_t>(decay_ms_ / kTicks, 1));
  for (;;) {
    std::unique_lock<std::mutex> lock(decay_mutex_);
    decay_asleep_ = true;
    // Frees that come now wait for the lock, those before are seen here.
    if (DecayIdle()) {
      decay_wake_.wait(lock, [this] { return !decay_asleep_; });
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
  ReleaseHeld();
  slabs_.ReturnIdle(false);
  uint64_t unused;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    low_water_[tick_++ % kTicks] = free_.ResetLowWater();
    unused = *std::min_element(std::begin(low_water_), std::end(low_water_));
  }
  if (decay_ms_ == 0) unused = UINT64_MAX;
  if (unused == 0) return;
  GiveBack(unused, Which::kOldest);
  for (uint64_t& low : low_water_) low -= std::min(low, unused);
}

}  // namespace zerrow
