// Whether memory is short where this process runs: on the machine, or in a cgroup that it is in.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace zerrow {

// The files of a memory cgroup (see cgroups.py). Those that cannot be read say nothing.
struct MemoryGroup {
  std::string limit, usage, stat, pressure;
};

// For one thread.
class MemoryRoom {
 public:
  MemoryRoom() = default;
  explicit MemoryRoom(std::vector<MemoryGroup> groups);

  // Whether less than an eighth is available, or since the last call somebody had to wait for memory
  // for a tenth of the time.
  bool IsShort();

 private:
  using Clock = std::chrono::steady_clock;

  // A file of the kernel's pressure stall information, and what it last said.
  struct Pressure {
    std::string file;
    uint64_t stalled_us = 0;
    Clock::time_point at{};
  };

  static bool IsFull(const MemoryGroup& group, uint64_t machine);
  static bool Stalls(Pressure* pressure);

  std::vector<MemoryGroup> groups_;
  std::vector<Pressure> pressures_;
};

}  // namespace zerrow
